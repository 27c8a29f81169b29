import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from worlds.commands import ccd, invoke
from worlds.runs import CLASSES, TRAIN, TRUTH

from pipeline.artifacts.corrections import align_corrections
from pipeline.artifacts.manifest import manifest_provenance, read_manifest, write_manifest
from pipeline.artifacts.state import check_up_to_date
from pipeline.evaluation.read import read
from pipeline.exchange.label_studio import LOCAL_FILES, storage_advice, storage_folders
from pipeline.method.labels import correct
from pipeline.review import export_review
from pipeline.review.corrections import UNTOUCHED, read_corrected_rows
from pipeline.system.errors import PipelineError


def answered(run, path, choices):
    """An export of Label Studio: the review list of a run, with these choices by image id."""
    ccd("export-review", "--run", run, "--limit", 100, "--out", path)
    tasks = json.loads(path.read_text())
    for number, task in enumerate(tasks):
        task |= {"id": number, "annotations": []}
        chosen = choices.get(task["data"]["image_id"])
        if chosen is not None:
            value = {"choices": chosen}
            result = [{"from_name": "labels", "to_name": "image", "type": "choices", "value": value}] if chosen else []
            task["annotations"] = [{"result": result, "was_cancelled": False}]
    path.write_text(json.dumps(tasks))
    return path


def answers_by_name(path):
    return {row.name: row.labels for row in read_corrected_rows(path, CLASSES)}


def test_export_review_begins_with_the_doubtful_and_names_the_classes(small_run):
    assert "ccd import-labels" in ccd("export-review", "--run", small_run, "--limit", 3)
    tasks = json.loads((small_run / "review.json").read_text())
    assert len(tasks) == 3
    assert tasks[0]["data"]["image_id"] == "train/0.png"  # the only one whose label was turned round
    initial, final = read(small_run / "initial_labels.h5").labels[0], read(small_run / "final_labels.h5").labels[0]
    doubt = -(final * np.log2(final) + (1 - final) * np.log2(1 - final)) + np.abs(final - initial)
    expected = [CLASSES[c] for c in np.argsort(-doubt)]
    assert tasks[0]["data"]["hint"] == f"Look for: {', '.join(expected)}"
    assert (small_run / "review.xml").exists()


def test_answers_of_a_person_reach_the_final_labels(small_run, tmp_path):
    export = answered(small_run, tmp_path / "export.json", {"train/0.png": ["cat"], "train/3.png": []})
    assert "corrected photos: 2, labels present: 1, absent: 5" in ccd("import-labels", export, "--run", small_run)
    expected = np.full((TRAIN, 3), -1)
    expected[0], expected[3] = [1, 0, 0], [0, 0, 0]
    assert read(small_run / "corrections.h5").labels.tolist() == expected.tolist()
    before = read(small_run / "final_labels.h5").provenance.fingerprint
    assert "corrected by hand: 2 photos" in ccd("fuse", "--run", small_run)
    final = read(small_run / "final_labels.h5")
    assert final.labels[[0, 3]].tolist() == [[1, 0, 0], [0, 0, 0]] and final.corrected_entries == 6
    assert final.corrected_images == 2
    assert (final.labels[[1, 2, 4, 5, 6, 7]] > 0).all() and (final.labels[[1, 2, 4, 5, 6, 7]] < 1).all()
    assert final.scores[0, 0] == final.scores[:, 0].max() >= 1
    assert final.provenance.fingerprint != before and "corrections.h5" in final.provenance.inputs
    assert not final.provenance.uses_ground_truth


def test_corrections_that_were_taken_away_are_fused_anew(small_run, tmp_path):
    export = answered(small_run, tmp_path / "export.json", {"train/0.png": ["cat"]})
    ccd("import-labels", export, "--run", small_run)
    ccd("fuse", "--run", small_run)
    (small_run / "corrections.h5").unlink()
    with pytest.raises(PipelineError, match=r"corrections.h5 was removed.*`ccd all .* --to fuse`"):
        check_up_to_date(small_run / "final_labels.h5")
    ccd("fuse", "--run", small_run)
    assert "corrections.h5" not in check_up_to_date(small_run / "final_labels.h5").inputs


def test_without_corrections_fuse_does_as_before(small_run):
    code, _ = invoke("fuse", "--run", small_run)
    final = read(small_run / "final_labels.h5")
    assert code == 0 and final.corrected_entries == 0 and "corrections.h5" not in final.provenance.inputs


def test_reviewed_images_are_not_asked_again(small_run, tmp_path):
    export = answered(small_run, tmp_path / "export.json", {"train/0.png": ["cat"]})
    invoke("import-labels", export, "--run", small_run)
    invoke("export-review", "--run", small_run)
    tasks = json.loads((small_run / "review.json").read_text())
    assert len(tasks) == TRAIN - 1 and all(task["data"]["image_id"] != "train/0.png" for task in tasks)


def test_later_answers_are_added_or_replace(small_run, tmp_path):
    (tmp_path / "a.csv").write_text("image_id,labels\ntrain/0.png,cat\n")
    (tmp_path / "b.csv").write_text("image_id,cat,dog\ntrain/0.png,0,\ntrain/1.png,,1\n")
    for name in ("a", "b"):
        ccd("import-labels", tmp_path / f"{name}.csv", "--run", small_run)
    labels = read(small_run / "corrections.h5").labels
    assert labels[:2].tolist() == [[0, 0, 0], [-1, 1, -1]]
    invoke("import-labels", tmp_path / "b.csv", "--run", small_run, "--replace")
    assert read(small_run / "corrections.h5").labels[:2].tolist() == [[0, -1, -1], [-1, 1, -1]]


def test_the_same_answers_are_the_same_artifact(small_run, tmp_path):
    (tmp_path / "a.csv").write_text("image_id,labels\ntrain/0.png,cat\n")
    found = []
    for _ in range(2):
        invoke("import-labels", tmp_path / "a.csv", "--run", small_run)
        found.append(read(small_run / "corrections.h5").provenance.fingerprint)
    (tmp_path / "a.csv").write_text("image_id,labels\ntrain/0.png,dog\n")
    invoke("import-labels", tmp_path / "a.csv", "--run", small_run)
    assert found[0] == found[1] != read(small_run / "corrections.h5").provenance.fingerprint


def test_an_exported_table_comes_back(small_run, tmp_path):
    ccd("export-labels", small_run, "--out", tmp_path / "labels.csv")
    said = answers_by_name(tmp_path / "labels.csv")
    final = read(small_run / "final_labels.h5").labels >= 0.5
    assert [said[i].tolist() for i in read_manifest(small_run).split("train").image_ids] == final.astype(int).tolist()


def test_a_csv_of_label_studio_is_understood(tmp_path):
    path = tmp_path / "studio.csv"
    path.write_text('image,image_id,labels\n/x.png,a,"{""choices"": [""cat"", ""dog""]}"\n/y.png,b,dog\n/z.png,c,\n')
    found = {name: row.tolist() for name, row in answers_by_name(path).items()}
    assert found == {"a": [1, 1, 0], "b": [0, 1, 0], "c": [0, 0, 0]}


def test_skipped_and_open_tasks_say_nothing(tmp_path):
    choice = {"from_name": "labels", "type": "choices", "value": {"choices": ["cat"]}}
    other = {"from_name": "boxes", "type": "rectanglelabels", "value": {"rectanglelabels": ["dog"]}}
    tasks = [
        {"data": {"image_id": "open"}, "annotations": []},
        {"data": {"image_id": "skipped"}, "annotations": [{"result": [choice], "was_cancelled": True}]},
        {"data": {"image_id": "twice"}, "annotations": [{"result": []}, {"result": [choice, other]}]},
    ]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    found = {name: row.tolist() for name, row in answers_by_name(tmp_path / "export.json").items()}
    assert found == {"twice": [1, 1, 0]}  # a box that a person drew is a word too


def test_a_box_of_ours_whose_tick_was_taken_away_says_nothing(tmp_path):
    tick = {"from_name": "labels", "type": "choices", "value": {"choices": ["cat"]}}
    boxes = [
        {"id": "box0", "from_name": "boxes", "type": "rectanglelabels", "value": {"rectanglelabels": ["dog"]}},
        {"id": "Xk3_a", "from_name": "boxes", "type": "rectanglelabels", "value": {"rectanglelabels": ["cow"]}},
    ]
    task = {"data": {"image_id": "a"}, "annotations": [{"result": [tick, *boxes]}]}
    (tmp_path / "export.json").write_text(json.dumps([task]))
    (row,) = read_corrected_rows(tmp_path / "export.json", ["cat", "dog", "cow"])
    assert row.labels.tolist() == [1, 0, 1]


def test_json_min_is_understood(tmp_path):
    rows = [
        {"image": "/x.png", "image_id": "one", "labels": "cat", "annotation_id": 1},
        {"image": "/y.png", "image_id": "two", "labels": {"choices": ["cat", "dog"]}, "annotation_id": 2},
        {"image": "/z.png", "image_id": "none", "annotation_id": 3},
        {"image": "/w.png", "image_id": "box", "boxes": [{"x": 1, "rectanglelabels": ["dog"]}], "annotation_id": 4},
    ]
    (tmp_path / "export.json").write_text(json.dumps(rows))
    found = {name: row.tolist() for name, row in answers_by_name(tmp_path / "export.json").items()}
    assert found == {"one": [1, 0, 0], "two": [1, 1, 0], "none": [0, 0, 0], "box": [0, 1, 0]}


def one_task(*results, **annotation):
    return [{"data": {"image_id": "a"}, "annotations": [{"result": list(results), **annotation}]}]


def result(kind, control, *names):
    return {"type": kind, "from_name": control, "id": "Zq1", "value": {kind: list(names)}}


@pytest.mark.parametrize(
    "tasks",
    [
        one_task(result("choices", "what", "cat", "dog")),
        one_task(result("rectanglelabels", "label", "cat"), result("polygonlabels", "shape", "dog")),
        one_task(result("brushlabels", "b", "dog"), result("choices", "c", "cat"), result("textarea", "note", "nice")),
        # a region and its label under two controls have one id
        one_task(
            {"type": "rectangle", "from_name": "r", "id": "Zq1", "value": {"x": 1}}, result("labels", "l", "cat", "dog")
        ),
        [{"image_id": "a", "annotation_id": 1, "choice": {"choices": ["cat", "dog"]}}],
        [{"image_id": "a", "annotation_id": 1, "choice": "cat", "label": [{"x": 1, "rectanglelabels": ["dog"]}]}],
        [{"image_id": "a", "annotation_id": 1, "what": ["cat", "dog"], "source": "phone"}],
        [{"image_id": "a", "annotation_id": 1, "shape": [{"polygonlabels": ["cat"]}, {"polygonlabels": ["dog"]}]}],
    ],
)
def test_any_control_whose_values_are_classes_is_taken(tmp_path, tasks):
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    assert answers_by_name(tmp_path / "export.json")["a"].tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("tasks", "control"),
    [
        (one_task(result("choices", "quality", "good")), "quality"),
        (one_task(result("choices", "what", "cat"), result("choices", "quality", "good")), "quality"),
        (one_task(result("polygonlabels", "shape", "cats")), "shape"),
        (one_task(result("taxonomy", "tree", ["animal", "cat"])), "tree"),
        (one_task(result("choices", "what", "dog"), result("taxonomy", "tree", ["animal", "cat"])), "tree"),
        (
            one_task(
                result("choices", "what", "dog"), {"type": "polygon", "from_name": "shape", "id": "p1", "value": {}}
            ),
            "shape",
        ),
        (one_task(result("textarea", "note", "a cat")), "note"),
        ([{"image_id": "a", "annotation_id": 1, "choice": "cats"}], "choice"),
        ([{"image_id": "a", "annotation_id": 1, "quality": {"choices": ["good"]}}], "quality"),
        ([{"image_id": "a", "annotation_id": 1, "label": [{"x": 1, "y": 2}]}], "label"),
    ],
)
def test_a_control_that_is_not_understood_is_not_none_of_the_classes(tmp_path, tasks, control):
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    with pytest.raises(PipelineError, match=control):
        read_corrected_rows(tmp_path / "export.json", CLASSES)


@pytest.mark.parametrize("newest_first", [False, True])
def test_the_newest_annotation_counts(tmp_path, newest_first):
    old = {
        "result": [result("choices", "labels", "dog")],
        "created_at": "2026-01-02T03:00:00.5Z",
        "updated_at": "2026-01-03T00:00:00Z",
    }
    new = {
        "result": [result("choices", "labels", "cat")],
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-02-01T05:00:00+05:00",
    }
    both = [new, old] if newest_first else [old, new]
    (tmp_path / "full.json").write_text(json.dumps([{"data": {"image_id": "a"}, "annotations": both}]))
    rows = [
        {"image_id": "a", "annotation_id": n, "labels": each["result"][0]["value"], "updated_at": each["updated_at"]}
        for n, each in enumerate(both)
    ]
    (tmp_path / "min.json").write_text(json.dumps(rows))
    for name in ("full.json", "min.json"):
        assert answers_by_name(tmp_path / name)["a"].tolist() == [1, 0, 0]


def test_an_export_review_of_chosen_images(small_run, tmp_path):
    (tmp_path / "selection.csv").write_text("image_id\ntrain/5.png\ntest/0.png\n")
    path = export_review.run(small_run, 100, tmp_path / "review.json", chosen=tmp_path / "selection.csv")
    assert [task["data"]["image_id"] for task in json.loads(path.read_text())] == ["train/5.png"]
    (tmp_path / "selection.csv").write_text("image_id\ntest/0.png\n")
    with pytest.raises(PipelineError, match="no image of the train split"):
        export_review.run(small_run, 100, tmp_path / "other.json", chosen=tmp_path / "selection.csv")


def test_the_folders_that_label_studio_must_be_told():
    assert storage_folders(["/a/b/x.jpg", "/a/b/c/y.jpg"]) == ["/a/b"]
    assert storage_folders(["/a/b/x.jpg", "/c/y.jpg"]) == ["/a", "/c"]  # never the root, which it refuses
    assert "absolute local path /a/b;" in storage_advice(["/a/b/x.jpg"], LOCAL_FILES)
    assert storage_advice(["/a/b/x.jpg"], "https://photos.example/") == ""


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "image_id,labels\ntrain/0.png,cats\n",
            "row 2 of .*a.csv names class 'cats', which is none of the 3 classes. Did you mean 'cat'",
        ),
        ("a.csv", "image_id,cat\ntrain/0.png,0.37\n", "row 2 of .*a.csv has '0.37' for cat, expected 1, 0 or nothing"),
        ("a.csv", "id,cat\ntrain/0.png,1\n", "has the columns id, cat; expected one named image or image_id"),
        ("a.csv", "image_id,cat,dgo\na,1,0\n", "column 'dgo' of 1 and 0, which is none .*Did you mean 'dog'"),
        ("a.csv", "image_id,cat,Dog\na,1,0\n", "column 'Dog' .*Did you mean 'dog'"),
        ("a.csv", "image_id,cat,cat\na,1,0\n", "has the column 'cat' twice"),
        ("a.csv", "image_id\na\n", "has no labels"),
        ("a.csv", "image_id,labels\n", "has no rows"),
        ("a.json", "[" * 100_000, "cannot be read as a JSON export of Label Studio"),
        ("a.json", '[{"data": 1, "annotations": 2}]', "cannot be read as a JSON export of Label Studio"),
        ("a.json", '[{"data": {"image_id": 3}, "annotations": [{"result": []}]}]', "3 has choices"),
        (
            "a.json",
            '[{"data": {"image_id": "a"}, "annotations": [{"result": '
            '[{"type": "choices", "from_name": "labels", "value": {"choices": [1]}}]}]}]',
            "the control 'labels' has the value 1, which is not one of the classes",
        ),
        ("a.csv", 'image_id,labels\na,"{""x"": 1}"\n', "expected names or"),
        ("a.csv", "", "has the columns none"),
        ("a.json", "{}", "as a JSON export of Label Studio: it is not a list of tasks"),
        ("a.json", '[{"image": "x", "labels": "cat"}]', "export as JSON or JSON-MIN"),
        ("a.json", '[{"data": {}, "annotations": [{"result": []}]}]', "has no image_id"),
        ("a.json", "[", "cannot be read as a JSON export"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(PipelineError, match=message):
        read_corrected_rows(tmp_path / name, CLASSES)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PipelineError, match=r"gone.csv could not be read"):
        read_corrected_rows(tmp_path / "gone.csv", CLASSES)


def test_the_run_comes_before_its_one_table(small_run, tmp_path):
    tables = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for table in tables:
        table.write_text("image,labels\ntrain/0.png,cat\n")
    code, output = invoke("import-labels", small_run, *tables)
    assert code == 1 and "one table" in output
    assert not (small_run / "corrections.h5").exists()
    ccd("import-labels", small_run, tables[0])
    assert (small_run / "corrections.h5").exists()


def test_images_outside_the_train_split_are_refused(small_run, tmp_path):
    (tmp_path / "a.csv").write_text("image_id,labels\ntest/0.png,cat\n")
    code, output = invoke("import-labels", tmp_path / "a.csv", "--run", small_run)
    assert code == 1 and "not in the train split (first: test/0.png, row 2)" in output
    assert not (small_run / "corrections.h5").exists()


def test_a_photo_may_be_named_by_its_path_or_base_name_but_once(small_run, tmp_path):
    path = read_manifest(small_run).split("train").paths[1]
    (tmp_path / "a.csv").write_text(f"image,labels\ntrain/0.png,cat\n{path},dog\n")
    ccd("import-labels", tmp_path / "a.csv", "--run", small_run)
    assert read(small_run / "corrections.h5").labels[:2].tolist() == [[1, 0, 0], [0, 1, 0]]
    (tmp_path / "a.csv").write_text(f"image,labels\ntrain/1.png,cat\n{path},dog\n")
    code, output = invoke("import-labels", small_run, tmp_path / "a.csv")
    assert code == 1 and "a.csv names image train/1.png, as row 2 does" in output


def test_corrections_are_found_again_among_other_images_and_classes():
    before = SimpleNamespace(
        image_ids=["a", "b", "silent"], class_names=["cat", "dog"], labels=np.array([[1, 0], [-1, 1], [-1, -1]])
    )
    found = align_corrections(before, ["new", "b", "a"], ["dog", "cow", "cat"])
    assert found.labels.tolist() == [[-1, -1, -1], [1, -1, -1], [0, -1, 1]]
    assert (found.unknown_images, found.unknown_classes) == ([], [])
    found = align_corrections(before, ["a"], ["dog"])
    assert found.labels.tolist() == [[0]]
    assert (found.unknown_images, found.unknown_classes) == (["b"], ["cat"])


def test_corrections_survive_photos_and_classes_that_come_and_go(small_run, tmp_path):
    (tmp_path / "a.csv").write_text("image_id,labels\ntrain/0.png,cat\ntrain/1.png,dog\n")
    ccd("import-labels", tmp_path / "a.csv", "--run", small_run)
    whole = read_manifest(small_run)
    names = {"dog": {"dog": 1.0}, "bird": {"bird": 1.0}}
    images = whole.images.iloc[1:].reset_index(drop=True)
    provenance = manifest_provenance(images, names)
    fewer = replace(whole, images=images, display_names=names, provenance=provenance)
    write_manifest(small_run, fewer)
    assert check_up_to_date(small_run / "corrections.h5").inputs == {}
    (tmp_path / "b.csv").write_text("image_id,bird\ntrain/2.png,1\n")
    ccd("import-labels", tmp_path / "b.csv", "--run", small_run)
    found = read(small_run / "corrections.h5")
    assert align_corrections(found, whole.image_ids[:3], [*CLASSES, "bird"]).labels.tolist() == [
        [1, 0, 0, -1],
        [0, 1, 0, -1],
        [-1, -1, -1, 1],
    ]
    write_manifest(small_run, whole)
    assert "corrects 1 classes that are not trained on (first: bird)" in ccd("fuse", "--run", small_run)
    assert read(small_run / "final_labels.h5").labels[:2].tolist() == [[1, 0, 0], [0, 1, 0]]


def test_correct_by_hand():
    values = np.float32([[0.3, 1.4], [0.6, 0.2]])
    said = np.int8([[1, -1], [-1, 1]])
    np.testing.assert_array_equal(correct(values, said), np.float32([[1.0, 1.4], [0.6, 1.4]]))
    np.testing.assert_array_equal(correct(values, np.zeros((2, 2), np.int8)), np.zeros((2, 2)))
    assert correct(np.zeros((0, 2), np.float32), np.zeros((0, 2), np.int8)).shape == (0, 2)


def test_truth_given_by_hand_becomes_the_labels(small_run, tmp_path):
    """Training uses exactly the corrections if all photos are corrected."""
    ids = read_manifest(small_run).split("train").image_ids
    joined = [";".join(np.array(CLASSES, dtype=object)[TRUTH[n] == 1]) for n in range(TRAIN)]
    pd.DataFrame({"image_id": ids, "labels": joined}).to_csv(tmp_path / "all.csv", index=False)
    ccd("import-labels", tmp_path / "all.csv", "--run", small_run)
    ccd("fuse", "--run", small_run)
    assert read(small_run / "final_labels.h5").labels.tolist() == TRUTH[:TRAIN].tolist()


def test_an_id_of_the_run_means_that_photo_though_a_test_photo_has_the_name_too(run, tmp_path):
    """`0.png` and `test/0.png` are both there; what `export-labels` writes comes back."""
    assert {"0.png", "test/0.png"} <= set(read_manifest(run).image_ids)
    (tmp_path / "said.csv").write_text("image_id,labels\n0.png,red\n")
    ccd("import-labels", tmp_path / "said.csv", "--run", run)
    corrections = read(run / "corrections.h5")
    assert (corrections.labels[corrections.image_ids.index("0.png")] != UNTOUCHED).all()
