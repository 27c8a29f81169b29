import http.client
import json
import secrets
import threading

import numpy as np
import pytest
import uvicorn
from browser import browse, need_browser, violations
from web_server import Running
from worlds.commands import ccd, invoke
from worlds.runs import CLASSES, TRAIN, TRUTH

from pipeline.artifacts.manifest import read_manifest
from pipeline.evaluation.read import read
from pipeline.review.queue import review_queue
from pipeline.review.server import HOST, build_app
from pipeline.review.session import LOG, open_review
from pipeline.system.errors import PipelineError


class Page(Running):
    """The server of a review."""

    def __init__(self, review):
        self.review, self.token = review, "token-of-the-test"
        super().__init__(build_app(review, self.token))
        self.address = f"http://127.0.0.1:{self.port}/{self.token}/"

    def save(self, correction):
        """Status, headers and content of the response to a correction."""
        body = correction if isinstance(correction, bytes) else json.dumps(correction).encode()
        return self.ask("POST", f"/{self.token}/correction", body, **{"Content-Type": "application/json"})


@pytest.fixture
def served(small_run):
    """A server of all train images of a run, and its folder."""
    with Page(open_review(small_run, 100)) as page:
        yield page, small_run


def test_a_correction_is_on_disk_before_it_is_confirmed(served):
    server, folder = served
    row = server.review.queue.rows[0]
    status, _, content = server.save({"index": 0, "present": [0, 2]})
    assert (status, json.loads(content)) == (200, {"corrected": 1, "present": [0, 2], "reviewed": True})
    labels = read(folder / "corrections.h5").labels
    assert labels[row].tolist() == [1, 0, 1] and (np.delete(labels, row, 0) == -1).all()
    assert server.save({"index": 0, "present": []})[0] == 200
    assert read(folder / "corrections.h5").labels[row].tolist() == [0, 0, 0]
    states = [json.loads(server.save({"index": 0, "present": None})[2]) for _ in range(2)]
    assert [state["corrected"] for state in states] == [1, 0]  # undoes the second correction, then the first
    assert [state["reviewed"] for state in states] == [True, False] and states[0]["present"] == [0, 2]
    assert (read(folder / "corrections.h5").labels == -1).all()


def test_corrections_imported_meanwhile_are_kept(served, tmp_path):
    server, folder = served
    ids = read_manifest(folder).split("train").image_ids
    asked, other = server.review.queue.rows[:2]
    (tmp_path / "a.csv").write_text(f"image_id,cat\n{ids[other]},1\n")
    ccd("import-labels", tmp_path / "a.csv", "--run", folder)
    server.save({"index": 0, "present": [1]})
    labels = read(folder / "corrections.h5").labels
    assert labels[other].tolist() == [1, -1, -1] and labels[asked].tolist() == [0, 1, 0]


def test_corrections_from_many_threads_are_all_kept(served):
    server, folder = served
    threads = [threading.Thread(target=server.save, args=({"index": n, "present": [n % 3]},)) for n in range(TRAIN)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    labels = read(folder / "corrections.h5").labels
    assert [labels[row].tolist().index(1) for row in server.review.queue.rows] == [n % 3 for n in range(TRAIN)]


@pytest.mark.parametrize("path", ["/", "/correction", "/wrong/", "/photo/0", "//photo/0"])
def test_nothing_is_there_without_the_token(served, path):
    server, _ = served
    for method in ("GET", "POST"):
        status, _, content = server.ask(method, path)
        assert (status, json.loads(content)) == (404, {"error": "not found"})


def test_a_page_under_another_name_is_refused(served):
    """Otherwise a site whose name resolves to this machine could read the corrections."""
    server, _ = served
    assert server.ask("GET", f"/{server.token}/", Host="evil.example")[0] == 400
    assert server.ask("GET", f"/{server.token}/", Host=f"localhost:{server.port}")[0] == 200


def test_only_photos_of_the_review_are_served(served):
    server, _ = served
    status, headers, content = server.ask("GET", f"/{server.token}/photo/0")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg") and content.startswith(b"\xff\xd8")
    for path in (
        "photo/999",
        "photo/-1",
        "photo/x",
        "photo/0/",
        "photo/../../manifest.csv",
        "photo/%2e%2e/manifest.csv",
        f"photo/{'9' * 4400}",
        "photo/%D9%A3",
    ):
        assert server.ask("GET", f"/{server.token}/{path}")[0] == 404


def test_the_page_may_not_be_framed_or_kept(served):
    server, _ = served
    headers = server.ask("GET", f"/{server.token}/")[1]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"] == "no-referrer"
    assert HOST == "127.0.0.1"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"[]",
        b"[" * 50_000,
        b'{"index": 0}',
        b'{"index": 0, "present": [99]}',
        b'{"index": 0, "present": [true]}',
        b'{"index": -1, "present": []}',
        b'{"index": 0.5, "present": []}',
        b'{"index": 0, "present": "cat"}',
        b'{"index": 0, "present": {}}',
        b'{"index": 0, "present": [], "path": "x"}',
        b" " * 70_000,
        b'{"index": 0, "present": [' + b"9" * 4400 + b"]}",
    ],
)
def test_malformed_corrections_are_refused_and_change_nothing(served, body):
    server, folder = served
    assert server.save(body)[0] in (400, 413)
    assert not (folder / "corrections.h5").exists()
    assert server.save({"index": 0, "present": []})[0] == 200  # and the server goes on


def test_the_page_names_the_run_as_the_command_line_takes_it(served):
    server, run = served
    page = server.ask("GET", f"/{server.token}/")[2].decode()
    assert f"ccd all {run}<" in page


def test_a_form_of_a_foreign_page_is_refused(served):
    server, folder = served
    body = b'{"index": 0, "present": []}'
    assert server.ask("POST", f"/{server.token}/correction", body, **{"Content-Type": "text/plain"})[0] == 415
    assert not (folder / "corrections.h5").exists()


@pytest.fixture
def reopened(served):
    """A server with corrections of the first three photos, started again."""
    server, folder = served
    asked = server.review.queue.rows[:3]
    for index in (0, 1, 2):
        server.save({"index": index, "present": [index]})
    with Page(open_review(folder, 100)) as later:
        yield later, folder, asked


def test_yesterdays_corrections_are_shown_in_their_order_and_undone(reopened):
    server, folder, asked = reopened
    content = server.review.content()
    ids = read_manifest(folder).split("train").image_ids
    assert [head["id"] for head in content["photos"][:3]] == [ids[row] for row in asked]
    assert (content["earlier"], content["history"]) == (3, [0, 1, 2])
    assert [head["present"] for head in content["photos"][:3]] == [[0], [1], [2]]
    assert len(content["photos"]) == TRAIN and set(server.review.queue.rows).isdisjoint(asked)
    assert json.loads(server.save({"index": 2, "present": None})[2])["reviewed"] is False
    labels = read(folder / "corrections.h5").labels
    assert (labels[asked[2]] == -1).all() and labels[asked[1]].tolist() == [0, 1, 0]
    assert server.review.content()["history"] == [0, 1]


def test_photos_of_one_class_come_by_its_score_without_those_corrected_in_it(small_run, tmp_path):
    labels = read(small_run / "final_labels.h5")
    (tmp_path / "labels.csv").write_text(f"image_id,dog\n{labels.image_ids[2]},1\n")
    ccd("import-labels", tmp_path / "labels.csv", "--run", small_run)
    expected = [row for row in np.argsort(-labels.scores[:, 1], kind="stable") if row != 2]
    assert review_queue(small_run, 5, class_name="dog").rows == expected[:5]
    with pytest.raises(PipelineError, match=r"no class 'dgo'\. Did you mean 'dog'"):
        review_queue(small_run, 5, class_name="dgo")


def test_undo_brings_back_what_was_imported_and_keeps_what_was_imported_since(served, tmp_path):
    server, folder = served
    row = server.review.queue.rows[0]
    image_id = read_manifest(folder).split("train").image_ids[row]

    def imported(text):
        (tmp_path / "a.csv").write_text(f"image_id,{text}\n".replace(";", f"\n{image_id},"))
        ccd("import-labels", tmp_path / "a.csv", "--run", folder)

    imported("cat;1")
    server.save({"index": 0, "present": [1]})
    assert read(folder / "corrections.h5").labels[row].tolist() == [0, 1, 0]
    imported("dog;0")
    server.save({"index": 0, "present": None})
    assert read(folder / "corrections.h5").labels[row].tolist() == [1, 0, -1]


def test_an_imported_correction_is_undone_on_its_own_photo_only(served, tmp_path):
    server, folder = served
    image_id = read_manifest(folder).split("train").image_ids[server.review.queue.rows[0]]
    (tmp_path / "a.csv").write_text(f"image_id,labels\n{image_id},cat\n")
    ccd("import-labels", tmp_path / "a.csv", "--run", folder)
    later = open_review(folder, 100)
    assert later.content()["history"] == [] and later.content()["earlier"] == 1
    assert later.save(0, None)["reviewed"] is False


@pytest.mark.parametrize("text", ["", "x", "[]", "{}", '{"image_id": 1, "before": {}, "after": {}}', "[" * 50_000])
def test_a_damaged_log_does_no_harm(served, text):
    server, folder = served
    server.save({"index": 0, "present": [0]})
    (folder / LOG).write_text(text)
    assert server.review.content()["history"] == []
    assert server.save({"index": 0, "present": None})[0] == 200
    assert (read(folder / "corrections.h5").labels == -1).all()


def test_a_run_whose_photos_are_all_reviewed_shows_them(served, small_run):
    server, _ = served
    for index in range(TRAIN):
        server.save({"index": index, "present": []})
    later = open_review(small_run, 100)
    assert later.queue.rows == [] and len(later.rows) == TRAIN


# A person who knows what is in the photos and uses keys alone.
PERSON = r"""(async () => {
  const truth = %s;
  const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const wait = (holds) => new Promise((done) => { const look = () => (holds() ? done() : setTimeout(look, 20)); look(); });
  const seen = [];
  while (!byId("card").hidden) {
    const id = byId("photo-id").textContent;
    await wait(() => byId("photo").complete && byId("photo").naturalWidth > 0);
    seen.push(id);
    for (const row of [...document.querySelectorAll(".tick-class")]) {
      const on = row.ariaPressed === "true";
      if (truth[id].includes(row.querySelector(".name").textContent) !== on) press(row.querySelector("kbd").textContent);
    }
    press("Enter");
    await wait(() => byId("card").hidden || byId("photo-id").textContent !== id);
  }
  const progress = byId("progress").textContent;
  press("s");  // there is nothing left to skip
  byId("again").click();
  return { seen, progress, last: byId("card").hidden ? null : byId("photo-id").textContent, overflow: document.documentElement.scrollWidth - innerWidth };
})()"""


# Undoes yesterday's last correction, finds a photo by name and corrects it, and reads the keys of all photos.
SECOND_DAY = r"""(async () => {
  const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const wait = (holds) => new Promise((done) => { const look = () => (holds() ? done() : setTimeout(look, 20)); look(); });
  const keys = () => [...document.querySelectorAll(".tick-class")].map((row) => [row.querySelector("kbd").textContent, row.querySelector(".name").textContent]);
  const progress = () => byId("progress").textContent;
  const seen = { start: progress(), keys: [] };
  press("u");
  await wait(() => byId("status").textContent.startsWith("Undone"));
  Object.assign(seen, { undone: byId("photo-id").textContent, afterUndo: progress(), status: byId("status").textContent });
  byId("find-photo").value = %s;
  byId("find-photo").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true }));
  seen.found = byId("photo-id").textContent;
  seen.hint = byId("hint").textContent;
  press("2");
  press("Enter");
  await wait(() => byId("status").textContent.startsWith("Saved"));
  for (let n = 0; n < data.photos.length; n++) { show(n); seen.keys.push(keys()); }
  return seen;
})()"""


def test_the_page_names_the_order_of_its_photos_in_a_browser(small_run, tmp_path):
    need_browser()
    for class_name, hint in (("dog", "Order: by the score of dog, highest first"), ("", "Most uncertain: ")):
        with Page(open_review(small_run, 5, class_name=class_name)) as page:
            found, _ = browse(page.address, tmp_path, 1280, "({ hint: byId('hint').textContent })")
        assert found["hint"].startswith(hint)


def test_keys_keep_their_class_and_earlier_corrections_are_undone_in_a_browser(reopened, tmp_path):
    need_browser()
    server, folder, asked = reopened
    ids = read_manifest(folder).split("train").image_ids
    found, console = browse(server.address, tmp_path, 1280, SECOND_DAY % json.dumps(ids[asked[0]]))
    assert console == []
    assert found["start"] == f"Photo 1 of {TRAIN - 3}, 0 reviewed, 3 earlier"
    assert (found["undone"], found["afterUndo"]) == (ids[asked[2]], "Earlier photo 3 of 3")
    assert ids[asked[2]] in found["status"] and "not reviewed" in found["status"]
    assert found["found"] == ids[asked[0]] and "Reviewed" in found["hint"]
    assert found["keys"] == [[[str(c + 1), name] for c, name in enumerate(CLASSES)]] * TRAIN
    labels = read(folder / "corrections.h5").labels
    assert labels[asked].tolist() == [[1, 1, 0], [0, 1, 0], [-1, -1, -1]]


@pytest.mark.parametrize("width", [1280, 390])
def test_a_person_corrects_every_photo_in_a_browser_and_fuse_honours_it(served, tmp_path, width):
    need_browser()
    server, folder = served
    ids = read_manifest(folder).split("train").image_ids
    truth = {ids[n]: [CLASSES[c] for c in np.flatnonzero(TRUTH[n] == 1)] for n in range(TRAIN)}
    found, console = browse(server.address, tmp_path, width, PERSON % json.dumps(truth))
    assert console == [] and found["overflow"] <= 0
    assert found["progress"] == f"{TRAIN} of {TRAIN} photos reviewed"
    assert found["seen"] == [ids[row] for row in server.review.queue.rows]  # most doubtful first
    assert found["last"] == found["seen"][-1]
    assert read(folder / "corrections.h5").labels.tolist() == TRUTH[:TRAIN].tolist()
    ccd("fuse", "--run", folder)
    assert read(folder / "final_labels.h5").labels.tolist() == TRUTH[:TRAIN].tolist()


def test_axe_finds_nothing_on_the_page(served, tmp_path):
    need_browser()
    server, _ = served
    assert violations(server.address, tmp_path, "0", "show(data.photos.length)") == []


def test_the_command_serves_until_it_is_interrupted(small_run, monkeypatch, capfd):
    run = uvicorn.Server.run

    def interrupted(server, sockets):
        thread = threading.Thread(target=run, args=(server, sockets))
        thread.start()
        connection = http.client.HTTPConnection(*sockets[0].getsockname(), timeout=20)
        body = json.dumps({"index": 0, "present": [0]})
        connection.request("POST", "/the-token/correction", body, {"Content-Type": "application/json"})
        assert json.load(connection.getresponse())["corrected"] == 1
        connection.close()
        server.should_exit = True
        thread.join()
        raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", interrupted)
    monkeypatch.setattr(secrets, "token_urlsafe", lambda length: "the-token")
    code, output = invoke("review", "--run", small_run, "--limit", 3)
    text = " ".join((output + capfd.readouterr().err).split())
    assert code == 0 and "3 photos to review: open http://127.0.0.1:" in text and "/the-token/ (" in text
    assert "corrected photos: 1." in text and f"`ccd all {small_run}`" in text
