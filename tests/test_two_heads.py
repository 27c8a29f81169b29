"""A classifier with the teacher as a second head, from training to every export."""

import shutil

import numpy as np
import pytest
import torch
from worlds.commands import ccd, refused

from pipeline import Classifier
from pipeline.artifacts.checkpoints import read_checkpoint
from pipeline.classifier.inference import load_classifier, to_float
from pipeline.classifier.teacher_head import SparseLinear, TeacherHead, TeacherHeadShape
from pipeline.evaluation.read import read
from pipeline.evaluation.tables import read_metrics
from pipeline.method.extras.two_heads import agreement_with_labels, learned_weight
from pipeline.photos.resize import load_view
from pipeline.runs.options import InitLabelsConfig
from pipeline.stages.evaluate import BOTH, scores_of_both
from pipeline.teachers.image_scores import teacher_scores

SIZE = 64
SMALL = ("prepare.train_scenes=12", "prepare.test_scenes=6", "train.epochs=1", "train.cross_fit_rounds=0")
SMALL += tuple(f"{stage}.image_size={SIZE}" for stage in ("embed", "warmup", "boxes", "train"))
SMALL += ("warmup.predict_size=0", "train.predict_size=0")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A finished run of `conse` on a few scenes."""
    run = tmp_path_factory.mktemp("two_heads") / "run"
    settings = [part for setting in SMALL for part in ("--set", setting)]
    ccd("all", "--preset", "demo", "--run", run, "--device", "cpu", *settings)
    return run


def test_embed_alone_gives_the_bytes_of_the_chain(demo, tmp_path):
    run = shutil.copytree(demo, tmp_path / "run", ignore=shutil.ignore_patterns("image_embeddings"))
    ccd("embed", "--run", run, "--force", "--device", "cpu")
    assert (run / "embeddings.h5").read_bytes() == (demo / "embeddings.h5").read_bytes()
    assert not (run / "features.partial").exists()


def test_agreement_is_the_average_precision_of_the_surest_photos():
    labels = np.array([[0.9, 0.1], [0.6, 0.2], [0.4, 0.3], [0.0, 0.0]])
    scores = labels + np.array([[0.5, 0], [0, 0], [0, 0], [0, 0]])
    logits = np.array([[1.0, 0.0], [3.0, 5.0], [2.0, 4.0], [0.0, -1.0]])
    # photos 0 and 1 have the first class, at ranks 3 and 1; photo 2 alone the second, at rank 2
    labels[2, 1] = scores[2, 1] = 0.5
    assert agreement_with_labels(logits, labels, scores) == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)
    assert agreement_with_labels(scores, labels, scores) == 1
    labels[:, 1] = 0.4  # a class without labels
    assert agreement_with_labels(scores, labels, scores) == 0.5


def test_the_weight_grows_with_photos_and_agreement():
    assert learned_weight(0, 1.0) == learned_weight(100, 0.0) == 0
    assert learned_weight(50, 1.0) == 0.25 and learned_weight(50, 0.5) == 0.125


def squares(paths):
    return to_float(torch.stack([load_view(path, (SIZE, SIZE)) for path in paths]))


def test_the_teacher_head_scores_photos_as_the_label_stages_do(demo):
    embeddings, manifest = read(demo / "embeddings.h5"), read(demo / "manifest.csv")
    net = load_classifier(read_checkpoint(demo / "classifier.pt"))
    with torch.no_grad():
        logits = net.teacher(net.features(squares(manifest.paths)))
        logits = ((logits - net.teacher.offset) / net.teacher.scale).numpy()
    expected = np.log(teacher_scores(embeddings, np.ones(len(manifest.paths), bool), InitLabelsConfig()))
    np.testing.assert_allclose(logits, expected, atol=0.02)  # kept cells have half precision


def test_the_logits_are_the_weighted_mean_of_both_heads(demo):
    net = load_classifier(read_checkpoint(demo / "classifier.pt"))
    weight = float(net.learned_weight)
    assert 0 < weight < learned_weight(12, 1.0)
    images = squares(read(demo / "manifest.csv").split("test").paths)
    with torch.no_grad():
        features = net.features(images)
        cams = net.head(features)
        learned = torch.where(cams > 0, net.boost * cams, cams).mean((2, 3))
        mixed = weight * learned + (1 - weight) * net.teacher(features)
        torch.testing.assert_close(net(images), net.scale * mixed + net.offset, atol=1e-5, rtol=1e-5)
    scores = read(demo / "epoch_scores.h5")
    np.testing.assert_allclose(scores.learned, learned.sigmoid().numpy(), atol=2e-3)
    np.testing.assert_allclose(scores.chosen, net(images).detach().sigmoid().numpy(), atol=2e-3)


def test_predictions_are_the_scores_of_the_run(demo):
    test = read(demo / "manifest.csv").split("test")
    scores = Classifier.load(demo).scores(test.paths)
    np.testing.assert_allclose(scores, read(demo / "epoch_scores.h5").chosen, atol=2e-3)


@pytest.mark.parametrize("arguments", [("--format", "torch-export"), ("--format", "onnx")])
def test_exports_have_both_heads(demo, tmp_path, arguments):
    # an export compares its scores with the classifier's
    out = tmp_path / "model"
    assert "within" in ccd("export", "--run", demo, *arguments, "--out", out)


def test_the_hub_folder_has_both_heads(demo):
    ccd("export", "--run", demo, "--format", "hub")
    test = read(demo / "manifest.csv").split("test")
    assert len(test.paths) == 6


@pytest.fixture(scope="module")
def other(demo, tmp_path_factory):
    """The run with a teacher that is another network than the backbone."""
    run = shutil.copytree(demo, tmp_path_factory.mktemp("other") / "run")
    ccd("all", "--run", run, "--device", "cpu", "--set", "embed.teacher=conse:lite0")
    return run


def test_with_another_network_both_score_new_photos_on_request(other):
    embeddings, manifest = read(other / "embeddings.h5"), read(other / "manifest.csv")
    net = load_classifier(read_checkpoint(other / "classifier.pt"))
    assert net.teacher is None
    paths = manifest.split("test").paths
    alone = Classifier.load(other, "cpu").scores(paths)
    np.testing.assert_allclose(alone, read(other / "epoch_scores.h5").chosen, atol=2e-3)
    both = Classifier.load(other, "cpu", with_teacher=True).scores(paths)
    # the weighted mean of both logits, the teacher's with the mean and deviation of the learned ones on the train photos
    with torch.no_grad():
        calibrated = net(squares(manifest.paths))
        learned = ((calibrated - net.offset) / net.scale).double().numpy()
    teacher = np.log(teacher_scores(embeddings, np.ones(len(manifest.paths), bool), InitLabelsConfig()).astype(float))
    factors = read(other / "epoch_scores.h5").mixture
    logits = factors[0] * calibrated.numpy() + factors[1] * teacher + factors[2]
    train = embeddings.is_train
    np.testing.assert_allclose(both, 1 / (1 + np.exp(-logits[~train])), atol=0.01)
    weights = []
    for c in range(len(manifest.class_names)):
        spread = learned[train, c].std() / teacher[train, c].std()
        matched = (teacher[:, c] - teacher[train, c].mean()) * spread + learned[train, c].mean()
        heads = np.column_stack([learned[:, c], matched, np.ones(len(matched))])
        own, other_head, _ = np.linalg.lstsq(heads, logits[:, c], rcond=None)[0]
        assert own + other_head > 0  # the slope of the calibration
        weights.append(own / (own + other_head))
    assert 0 < weights[0] < learned_weight(12, 1.0)
    np.testing.assert_allclose(weights, weights[0], atol=5e-3)


def test_evaluate_measures_both_as_predict_gives_them(other):
    epochs, embeddings = read(other / "epoch_scores.h5"), read(other / "embeddings.h5")
    scores = scores_of_both(embeddings, InitLabelsConfig(), epochs)
    paths = read(other / "manifest.csv").split("test").paths
    np.testing.assert_allclose(Classifier.load(other, "cpu", with_teacher=True).scores(paths), scores, atol=5e-3)
    metrics = read_metrics(other)
    assert BOTH in metrics["test"]
    gain = metrics["test"][BOTH]["mAP"] - metrics["test"]["final classifier"]["mAP"]
    assert metrics["gain_with_teacher"]["mAP"] == pytest.approx(gain)


def test_with_teacher_needs_the_run_unless_the_classifier_contains_the_teacher(demo, other, tmp_path):
    shutil.copy(other / "classifier.pt", tmp_path / "copied.pt")
    photo = read(demo / "manifest.csv").paths[0]
    message = refused("predict", tmp_path / "copied.pt", photo, "--with-teacher")
    assert "has no embeddings.h5" in message
    assert "contains its teacher" in ccd("predict", demo, photo, "--with-teacher")


def test_another_network_or_pooling_leaves_the_learned_head_alone(demo, tmp_path):
    run = shutil.copytree(demo, tmp_path / "run")
    ccd("all", "--run", run, "--device", "cpu", "--set", "embed.cell_pooling=softmax")
    assert load_classifier(read_checkpoint(run / "classifier.pt")).teacher is None
    assert read(run / "epoch_scores.h5").learned is None


def test_the_teachers_logits_get_the_mean_and_deviation_of_the_learned_head(demo):
    net = load_classifier(read_checkpoint(demo / "classifier.pt"))
    images = squares(read(demo / "manifest.csv").split("train").paths)
    with torch.no_grad():
        features = net.features(images)
        cams = net.head(features)
        learned, teacher = torch.where(cams > 0, net.boost * cams, cams).mean((2, 3)), net.teacher(features)
    torch.testing.assert_close(teacher.mean(0), learned.mean(0), atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(teacher.std(0), learned.std(0), atol=2e-3, rtol=1e-2)


def test_one_image_scales_no_logits():
    head = TeacherHead(TeacherHeadShape.of(shape()))
    head.fit_scale(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[5.0, 6.0, 7.0]]))
    assert head.scale.tolist() == [1, 1, 1] and head.offset.tolist() == [4, 4, 4]


def shape(**changes):
    sizes = {"channels": 5, "imagenet": 7, "size": 3, "texts": 5, "outcomes": 4, "most_texts": 2, "classes": 3}
    return sizes | {"cell_share": 0.25, "cell_weight": 0.4, "sigmoid": False} | changes


def test_a_teacher_head_against_loops():
    torch.manual_seed(0)
    head = TeacherHead(TeacherHeadShape.of(shape())).eval()
    for name in ("words", "text", "bias", "cell_bias"):
        buffer = getattr(head, name)
        buffer.copy_(torch.rand_like(buffer) + 0.1)
    head.texts_of.copy_(torch.tensor([[0, 1], [2, 2], [3, 3], [4, 4]]))
    maps = torch.randn(2, 5, 2, 4)
    with torch.no_grad():
        got = head(maps)
        for n in range(2):
            cells = [maps[n, :, y, x] for y in range(2) for x in range(4)]
            probabilities = []
            for vector in [sum(cells) / 8, *cells]:
                shares = (head.imagenet.weight @ vector + head.imagenet.bias).softmax(0)
                embedding = sum(share * word for share, word in zip(shares, head.words, strict=True))
                cosines = [float(embedding @ text / embedding.norm()) for text in head.text]
                outcomes = [max(cosines[0], cosines[1]), *cosines[2:]]
                total = sum(np.exp(z) for z in outcomes)
                probabilities.append([np.exp(z) / total for z in outcomes[:3]])
            for c in range(3):
                best = sorted(p[c] for p in probabilities[1:])[-2:]
                score = 0.6 * probabilities[0][c] / float(head.bias[c])
                score += 0.4 * sum(best) / 2 / float(head.cell_bias[c])
                assert float(got[n, c]) == pytest.approx(np.log(score), abs=1e-4)


@pytest.mark.parametrize("changes", [{"texts": 0}, {"size": 10**9}, {"imagenet": 2.5}, {"cell_share": 2}, {"more": 1}])
def test_impossible_shapes_are_refused(changes):
    with pytest.raises(ValueError, match="teacher head"):
        TeacherHeadShape.of(shape(**changes))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_a_sparse_product_is_the_dense_one(share):
    torch.manual_seed(0)
    layer = SparseLinear(30, 7)
    vectors = torch.randn(2, 5, 30) * (torch.rand(2, 5, 30) < share)
    vectors[1, 4] = 0  # the last vector has no input
    with torch.no_grad():
        torch.testing.assert_close(layer(vectors), vectors @ layer.weight.T + layer.bias)


def test_conse_as_the_teachers_backbone_is_the_default(demo, tmp_path):
    run = shutil.copytree(demo, tmp_path / "run")
    ccd("warmup", "--run", run, "--device", "cpu", "--backbone", "teacher")
    before, after = (read_checkpoint(folder / "warmup.pt") for folder in (demo, run))
    assert before.architecture == after.architecture and before.image_size == after.image_size
    assert all(torch.equal(value, after.weights[name]) for name, value in before.weights.items())


def test_a_head_on_embeddings_against_loops():
    torch.manual_seed(0)
    for sigmoid in (False, True):
        head = TeacherHead(TeacherHeadShape.of(shape(imagenet=0, channels=6, sigmoid=sigmoid))).eval()
        for name in ("text", "bias", "cell_bias"):
            buffer = getattr(head, name)
            buffer.copy_(torch.rand_like(buffer) + 0.1)
        head.logit_bias.fill_(-0.5 if sigmoid else 0)
        head.texts_of.copy_(torch.tensor([[0, 1], [2, 2], [3, 3], [4, 4]]))
        whole, cells = torch.randn(2, 3), torch.randn(2, 3, 2, 4)
        maps = torch.cat([cells, whole[:, :, None, None].expand(2, 3, 2, 4)], dim=1)
        got = head(maps)
        for n in range(2):
            probabilities = []
            for vector in [whole[n], *(cells[n, :, y, x] for y in range(2) for x in range(4))]:
                cosines = [float(vector @ text / vector.norm()) for text in head.text]
                outcomes = [max(cosines[0], cosines[1]), *cosines[2:]]
                total = sum(np.exp(z) for z in outcomes)
                scores = [1 / (1 + np.exp(0.5 - z)) if sigmoid else np.exp(z) / total for z in outcomes[:3]]
                probabilities.append(scores)
            for c in range(3):
                best = sorted(p[c] for p in probabilities[1:])[-2:]
                score = 0.6 * probabilities[0][c] / float(head.bias[c])
                score += 0.4 * sum(best) / 2 / float(head.cell_bias[c])
                assert float(got[n, c]) == pytest.approx(np.log(score), abs=1e-4)


@pytest.mark.parametrize("changes", [{"channels": 3}, {"channels": 7}, {"sigmoid": 1}])
def test_impossible_maps_of_embeddings_are_refused(changes):
    with pytest.raises(ValueError, match="teacher head"):
        TeacherHeadShape.of(shape(imagenet=0, **{"channels": 6} | changes))
