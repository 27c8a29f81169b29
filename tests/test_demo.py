import json
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets import demo
from pipeline.datasets.demo import Cutout, DemoConfig, Sprite
from pipeline.system.errors import PipelineError

SMALL = DemoConfig(seed=3, train_scenes=32, test_scenes=32, size=96)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    demo.compose(root, SMALL)
    return root


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.*")}


def cutout_names(split):
    return {name: {c.name for c in cutouts} for name, cutouts in demo.load_cutouts(split).items()}


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    config = DemoConfig(seed=0, train_scenes=2, test_scenes=1, size=96)
    demo.compose(tmp_path / "a", config)
    demo.compose(tmp_path / "b", config)
    demo.compose(tmp_path / "c", DemoConfig(seed=1, train_scenes=2, test_scenes=1, size=96))
    first = contents(tmp_path / "a")
    assert sorted(first) == ["annotations.json", "test/0000.jpg", "train/0000.jpg", "train/0001.jpg"]
    assert first == contents(tmp_path / "b")
    other = contents(tmp_path / "c")
    assert all(first[name] != other[name] for name in first)


def test_a_scene_does_not_depend_on_the_number_of_scenes(scenes, tmp_path):
    demo.compose(tmp_path, DemoConfig(seed=3, train_scenes=1, test_scenes=2, size=96))
    for name in ("train/0000.jpg", "test/0001.jpg"):
        assert (tmp_path / name).read_bytes() == (scenes / name).read_bytes()


def test_composing_again_redraws_only_what_is_missing_or_of_another_config(tmp_path):
    config = DemoConfig(seed=0, train_scenes=1, test_scenes=1, size=96)
    demo.compose(tmp_path, config)
    drawn = contents(tmp_path)
    image = tmp_path / "train" / "0000.jpg"
    image.write_bytes(b"mine")
    demo.compose(tmp_path, config)
    assert image.read_bytes() == b"mine"
    image.unlink()
    demo.compose(tmp_path, config)
    assert contents(tmp_path) == drawn
    (tmp_path / demo.ANNOTATIONS).write_text("{")
    demo.compose(tmp_path, config)
    assert contents(tmp_path) == drawn
    demo.compose(tmp_path, DemoConfig(seed=1, train_scenes=1, test_scenes=1, size=96))
    assert contents(tmp_path) != drawn


def test_every_class_has_cutouts_for_both_splits_and_shares_none():
    train, test = cutout_names("train"), cutout_names("test")
    assert list(train) == list(test) == demo.class_names()
    assert 12 <= len(train) <= 20
    for name in train:
        assert len(train[name]) >= 2
        assert len(test[name]) >= 1
        assert not train[name] & test[name]


def test_scenes_show_the_cutouts_of_their_split(scenes):
    allowed = {split: cutout_names(split) for split in demo.SPLITS}
    for image in json.loads((scenes / demo.ANNOTATIONS).read_text())["images"]:
        for shown in image["objects"]:
            assert shown["cutout"] in allowed[image["split"]][shown["class"]]


def test_loaded_dataset_agrees_with_the_files(scenes):
    data = demo.load(scenes)
    assert data.splits == ["train"] * 32 + ["test"] * 32
    assert len(set(data.image_ids)) == 64
    assert all(Image.open(path).size == (96, 96) for path in data.paths)
    assert data.labels.dtype == np.int8
    expected = np.zeros((64, len(data.class_names)))
    for row, column in zip(data.objects.image_index, data.objects.class_index, strict=True):
        expected[row, column] += 1
    np.testing.assert_array_equal(data.labels, expected)  # at most one object of a class in a scene
    assert set(data.labels.sum(1)) == {1, 2, 3, 4}


def test_every_class_is_present_in_both_splits(scenes):
    data = demo.load(scenes)
    is_train = np.array(data.splits) == "train"
    assert data.labels[is_train].any(0).all()
    assert data.labels[~is_train].any(0).all()


def test_boxes_lie_within_the_image_and_are_not_empty(scenes):
    x1, y1, x2, y2 = demo.load(scenes).objects.box.T
    assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= 96).all() and (y2 <= 96).all()
    assert (x2 - x1 >= 4).all() and (y2 - y1 >= 4).all()


def square(side, left, top):
    image = Image.new("RGBA", (side, side), (255, 0, 0, 255))
    return Sprite(Cutout("square", "red", image), image, left, top)


def test_visible_masks_leave_out_what_nearer_sprites_cover():
    back, front = demo.visible_masks([square(4, 0, 0), square(4, 2, 0)], 8)
    assert demo.mask_extent(back) == [0, 0, 2, 4]
    assert demo.mask_extent(front) == [2, 0, 6, 4]


def test_visible_masks_end_at_the_border():
    (mask,) = demo.visible_masks([square(4, -1, 6)], 8)
    assert mask.sum() == 3 * 2
    assert demo.mask_extent(mask) == [0, 6, 3, 8]


def test_arrange_keeps_every_object_visible():
    image = Image.new("RGBA", (40, 40), (255, 0, 0, 255))
    pairs = [(Cutout("square", str(k), image), image) for k in range(4)]
    for seed in range(10):
        _, masks = demo.arrange(pairs, 0.4, SMALL, np.random.default_rng(seed))
        assert min(mask.sum() for mask in masks) >= demo.MIN_VISIBLE * 40 * 40
        assert np.sum(masks, axis=0).max() == 1


def test_paint_sprite_covers_its_pixels_and_shades_the_ground_below():
    scene = np.full((64, 64, 3), 200, np.float32)
    painted = demo.paint_sprite(scene, square(20, 20, 20))
    np.testing.assert_allclose(painted[20:40, 20:40], np.broadcast_to([255, 0, 0], (20, 20, 3)))
    assert painted[41, 30, 0] < 180
    np.testing.assert_allclose(painted[0], 200, atol=1)


def test_notice_and_licence_are_shipped_with_the_cutouts():
    folder = resources.files("pipeline.datasets") / "cutouts"
    assert "Bill Kendrick" in (folder / "NOTICE").read_text()
    assert "GNU GENERAL PUBLIC LICENSE\n" in (folder / "COPYING").read_text()


def test_missing_or_foreign_annotations_are_named(tmp_path):
    with pytest.raises(PipelineError, match=r"annotations\.json is missing"):
        demo.load(tmp_path)
    (tmp_path / demo.ANNOTATIONS).write_text('{"schema": "other"}')
    with pytest.raises(PipelineError, match="not a demo-scenes file"):
        demo.load(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: record.pop("images"),
        lambda record: record.update(images=7),
        lambda record: record["images"][0].pop("path"),
        lambda record: record["images"][0].update(objects=[{"class": "cat"}]),
        lambda record: record["images"][0]["objects"][0].update({"class": "unicorn"}),
        lambda record: record["images"][0]["objects"][0].update(box=[1, 2]),
    ],
)
def test_annotations_that_are_wrong_inside_are_an_error_and_composed_anew(tmp_path, damage):
    config = replace(SMALL, train_scenes=1, test_scenes=0)
    demo.compose(tmp_path, config)
    record = json.loads((tmp_path / demo.ANNOTATIONS).read_text())
    damage(record)
    (tmp_path / demo.ANNOTATIONS).write_text(json.dumps(record))
    with pytest.raises(PipelineError, match=r"annotations\.json is not a complete record of demo scenes"):
        demo.load(tmp_path)
    demo.compose(tmp_path, config)
    assert len(demo.load(tmp_path).paths) == 1


def test_json_that_nests_too_deeply_is_an_error(tmp_path):
    (tmp_path / demo.ANNOTATIONS).write_text("[" * 100_000)
    with pytest.raises(PipelineError, match="is not JSON"):
        demo.load(tmp_path)
