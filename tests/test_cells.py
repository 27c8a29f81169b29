"""Local evidence: cells of a view to scores, artifacts and boxes."""

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from worlds.commands import ccd, refused
from worlds.photos import COLOURS
from worlds.teachers import ColourTeacher, use_teacher

from pipeline.evaluation.read import read
from pipeline.method.cells import best_mean, cell_boxes, weighted_logits
from pipeline.method.labels import class_bias
from pipeline.method.probabilities import entropy, softening

CLASSES = list(COLOURS)


def test_the_mean_of_the_best_cells_and_its_extremes():
    probabilities = torch.tensor([[0.1, 0.8], [0.5, 0.2], [0.3, 0.4], [0.7, 0.0]])
    torch.testing.assert_close(best_mean(probabilities, 0.5), torch.tensor([0.6, 0.6]))
    torch.testing.assert_close(best_mean(probabilities, 0.0), torch.tensor([0.7, 0.8]))
    torch.testing.assert_close(best_mean(probabilities, 1.0), torch.tensor([0.4, 0.35]))


def test_weighted_logits_against_a_loop():
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)) * 5
    for c in range(3):
        weights = [float(torch.exp(z)) for z in logits[:, c]]
        mean = sum(w * float(z) for w, z in zip(weights, logits[:, c], strict=True)) / sum(weights)
        assert float(weighted_logits(logits)[c]) == pytest.approx(mean, rel=1e-5)


def test_boxes_of_cells_in_reading_order():
    boxes = cell_boxes(torch.tensor([0, 3, 5]), (2, 4))
    assert boxes.tolist() == [[0, 0, 0.25, 0.5], [0.75, 0, 1, 0.5], [0.25, 0.5, 0.5, 1]]


@pytest.fixture
def corners(tmp_path, monkeypatch):
    """A prepared run with the colour teacher on photos of two colours: one fills the photo but for a corner of the other."""
    (tmp_path / "photos").mkdir()
    for n in range(12):
        pixels = np.empty((64, 96, 3), np.uint8)
        pixels[:] = COLOURS[CLASSES[n % 3]]
        pixels[48:, 72:] = COLOURS[CLASSES[(n + 1) % 3]]  # the last of 4 x 4 cells
        pixels[0, 0, 0] += n  # or photos of the same content are encoded once
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{n:02d}.png")
    ccd("prepare", "--run", tmp_path / "run", "--images", tmp_path / "photos", "--classes", ",".join(CLASSES))
    use_teacher(ColourTeacher(), monkeypatch)
    return tmp_path / "run"


def embed(run, *arguments):
    ccd("embed", "--run", run, "--device", "cpu", "--background", "none", "--ranking-entropy", 0, *arguments)
    return read(run / "embeddings.h5")


def naive_scores(run, share):
    """Scores and best cells from the kept cells, with loops over images, classes and cells."""
    embeddings = read(run / "embeddings.h5")
    for path in (run / "image_embeddings").glob("*.h5"):
        with h5py.File(path) as file:
            if file.attrs.get("content") == b"cells 1":
                cells = dict(zip(file["sha256"].asstr()[:], file["image"][:].astype(np.float64), strict=True))
    scores, best = [], []
    for digest in read(run / "manifest.csv").digests:
        flat = cells[digest].reshape(-1, 3)
        probabilities = []
        for cell in flat:
            logits = [embeddings.logit_scale * float(np.dot(cell, text)) for text in embeddings.text]
            total = sum(np.exp(z - max(logits)) for z in logits)
            probabilities.append([np.exp(z - max(logits)) / total for z in logits])
        columns = list(zip(*probabilities, strict=True))
        count = max(round(share * len(flat)), 1)
        scores.append([sum(sorted(column)[-count:]) / count for column in columns])
        best.append([column.index(max(column)) for column in columns])
    return np.array(scores), np.array(best)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_cell_scores_against_a_loop(corners, share):
    embeddings = embed(corners, "--cell-share", share)
    scores, best = naive_scores(corners, share)
    np.testing.assert_allclose(embeddings.cell_scores, scores, atol=2e-6)
    assert (embeddings.grid_height, embeddings.grid_width) == (4, 4)
    for n in range(12):  # the class of the corner has one cell; that of the rest has fifteen equal ones
        corner = (n + 1) % 3
        assert embeddings.best_cell[n, corner] == best[n, corner] == 15
        assert embeddings.cell_scores[n, corner] > embeddings.probabilities[n, corner]


def test_cells_that_are_not_kept_give_the_same_scores(corners):
    kept = embed(corners)
    stores = set(corners.glob("image_embeddings/*"))
    for path in stores:
        path.unlink()
    without = embed(corners, "--cell-cache-gb", 0, "--force")
    assert not any(content_of(path) == "cells" for path in corners.glob("image_embeddings/*"))
    for name in ("cell_scores", "best_cell", "probabilities"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(without, name))


def content_of(path):
    with h5py.File(path) as file:
        return file.attrs.get("content", b"").decode()


def test_kept_cells_spare_the_teacher_when_classes_change(corners, monkeypatch):
    embed(corners)
    teacher = use_teacher(ColourTeacher(), monkeypatch)
    embed(corners, "--templates", "a {}", "--cell-pooling", "softmax")
    assert teacher.batches == []


def test_scores_of_cells_that_are_not_kept_survive_a_change_of_the_bias(corners, monkeypatch):
    embed(corners, "--cell-cache-gb", 0)
    teacher = use_teacher(ColourTeacher(), monkeypatch)
    embed(corners, "--cell-cache-gb", 0, "--bias-shrinkage", 3)
    assert teacher.batches == [1]  # a blank view, for the grid
    embed(corners, "--cell-cache-gb", 0, "--cell-share", 0.5)
    assert sum(teacher.batches) == 2 + 12


def test_tiles_are_crops_of_the_photo(corners, monkeypatch):
    embeddings = embed(corners, "--local", "tiles", "--tiles", 4, "--cell-share", 0)
    assert (embeddings.grid_height, embeddings.grid_width) == (4, 4)
    for n in range(12):
        assert embeddings.best_cell[n, (n + 1) % 3] == 15
        assert embeddings.cell_scores[n, (n + 1) % 3] > 0.9


def test_a_teacher_without_cells_gives_global_scores_alone(corners, monkeypatch):
    class WithoutCells(ColourTeacher):
        def encode_views(self, images):
            return type(super().encode_views(images))(self.encode_images(images), None)

    use_teacher(WithoutCells(fingerprint="without"), monkeypatch)
    assert "--local tiles" in ccd(
        "embed", "--run", corners, "--device", "cpu", "--background", "none", "--ranking-entropy", 0
    )
    embeddings = read(corners / "embeddings.h5")
    assert embeddings.cell_scores is None
    ccd("init-labels", "--run", corners)
    labels = read(corners / "initial_labels.h5")
    np.testing.assert_allclose(labels.scores, embeddings.probabilities / embeddings.bias, rtol=1e-6)


def test_a_second_size_counts_as_much_as_the_first(corners):
    first, second = embed(corners, "--image-size", 32), embed(corners, "--image-size", 64)
    both = embed(corners, "--image-size", 32, "--second-size", 64)
    np.testing.assert_allclose(both.cell_scores, (first.cell_scores + second.cell_scores) / 2, atol=1e-6)
    np.testing.assert_array_equal(both.best_cell, first.best_cell)


def test_labels_have_the_order_of_both_and_the_values_of_the_global_scores(corners):
    embeddings = embed(corners)
    ccd("init-labels", "--run", corners, "--cell-weight", 0.5)
    labels = read(corners / "initial_labels.h5")
    global_scores = embeddings.probabilities / embeddings.bias
    confident = embeddings.is_train & (embeddings.entropy <= 0.668 * np.log(3))
    cell_bias = class_bias(embeddings.cell_scores, confident)[0]
    expected = 0.5 * global_scores + 0.5 * embeddings.cell_scores / cell_bias
    np.testing.assert_allclose(labels.scores, expected, rtol=1e-5)
    np.testing.assert_allclose(
        np.sort(labels.labels, axis=0).sum(0), np.sort(global_scores.clip(0, 1), axis=0).sum(0), rtol=1e-5
    )
    ccd("init-labels", "--run", corners, "--values", "scores")
    labels = read(corners / "initial_labels.h5")
    np.testing.assert_array_equal(labels.labels, labels.scores.clip(0, 1))


def test_boxes_around_the_best_cells(corners):
    embed(corners)
    for stage in ("init-labels", "warmup"):
        arguments = ("--epochs", 1, "--image-size", 32, "--predict-size", 32, "--backbone", "lite0")
        ccd(stage, "--run", corners, *(("--device", "cpu", *arguments) if stage == "warmup" else ()))
    ccd("boxes", "--run", corners, "--device", "cpu", "--view", "cells", "--image-size", 32, "--margin", 0.125)
    boxes, embeddings = read(corners / "boxes.h5"), read(corners / "embeddings.h5")
    assert len(boxes.box)
    for row, kind, box in zip(boxes.image_index, boxes.class_index, boxes.box, strict=True):
        line, column = divmod(int(embeddings.best_cell[row, kind]), 4)
        edges = [(column / 4 - 0.125) * 96, (line / 4 - 0.125) * 64]
        edges += [((column + 1) / 4 + 0.125) * 96, ((line + 1) / 4 + 0.125) * 64]
        np.testing.assert_allclose(box, np.clip(edges, 0, [96, 64, 96, 64]), atol=1e-4)
    embed(corners, "--local", "none")
    for stage in ("init-labels", "warmup"):
        ccd(stage, "--run", corners, *(("--device", "cpu") if stage == "warmup" else ()))
    assert "has no cells" in refused("boxes", "--run", corners, "--device", "cpu")


def test_the_plan_tells_whether_new_names_need_another_pass(corners):
    embed(corners)
    assert "are kept" in ccd("status", corners)
    embed(corners, "--cell-cache-gb", 0)
    assert "another pass" in ccd("status", corners)


def test_softening_reaches_the_entropy_in_the_fewest_steps():
    logits = 40 * torch.rand(50, 6, generator=torch.Generator().manual_seed(0))
    factor = softening(logits, 0.5)
    steps = round(-4 * np.log2(factor))
    assert factor == pytest.approx(2 ** (-steps / 4)) and steps > 0
    for k, reached in ((steps, True), (steps - 1, False)):
        share = entropy((2 ** (-k / 4) * logits).softmax(1)).mean() / np.log(6)
        assert (share >= 0.5) == reached
    assert softening(logits / 100, 0.5) == 1 and softening(logits, 0.0) == 1


def test_peaked_scores_rank_by_a_softer_scale(corners):
    embed(corners, "--logit-scale", 60)
    hard = read(corners / "embeddings.h5")
    ccd("embed", "--run", corners, "--device", "cpu", "--ranking-entropy", 0.8)
    soft = read(corners / "embeddings.h5")
    np.testing.assert_array_equal(soft.probabilities, hard.probabilities)
    expected = soft.softening * np.log(hard.probabilities)
    expected = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
    assert soft.softening < 1
    np.testing.assert_allclose(soft.ranking_probabilities, expected, atol=1e-5)
    without = ("--cell-cache-gb", 0)
    ccd("embed", "--run", corners, "--device", "cpu", "--ranking-entropy", 0.8, *without, "--force")
    np.testing.assert_array_equal(read(corners / "embeddings.h5").cell_scores, soft.cell_scores)
