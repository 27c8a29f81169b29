"""A run to a small page on this machine where a person corrects its labels; every answer is written at once."""

import contextlib
import json
import secrets
import threading
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from pipeline.artifacts.corrections import Corrections
from pipeline.artifacts.hdf5 import write
from pipeline.evaluation.read import read
from pipeline.exchange.label_sets import LabelSet
from pipeline.photos.drawing import jpeg
from pipeline.review.corrections import UNTOUCHED, carried_over, corrections_of
from pipeline.review.queue import ReviewQueue, review_queue
from pipeline.runs.graph import run_argument
from pipeline.runs.lock import locked
from pipeline.system.errors import PipelineError
from pipeline.system.files import write_text
from pipeline.system.progress import log
from pipeline.web.page import HEADERS, render

HOST = "127.0.0.1"
"""Nobody else on the network is to see or correct the photos."""

PHOTO_SIDE = 1100
"""Longest side of a photo on the page, pixels."""

MOST_BYTES = 65_536
"""Longest answer that is read."""

LOG = "answers.jsonl"
"""In a run folder: the answers of the page, the oldest first, which undo goes by."""

MOST_EARLIER = 1000
"""Photos with an earlier answer on the page, the latest."""


class WrongAnswer(Exception):
    """An answer that the page would never give; the message says why."""


@dataclass(frozen=True)
class Answer:
    """A line of the log: what was known of a photo before an answer and after it, 1 or 0 by class."""

    image_id: str
    before: dict[str, int]
    after: dict[str, int]


def read_log(folder: Path) -> list[Answer]:
    """The answers of the page, the oldest first; lines of another form are left out."""
    found = []
    try:
        lines = (folder / LOG).read_text(encoding="utf-8").split("\n")
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            answer = Answer(**json.loads(line))
            if isinstance(answer.image_id, str) and isinstance(answer.before, dict) and isinstance(answer.after, dict):
                found.append(answer)
    return found


def write_log(folder: Path, answers: list[Answer]) -> None:
    """Write the answers of the page."""
    write_text(folder / LOG, "".join(f"{json.dumps(vars(answer))}\n" for answer in answers))


@dataclass(frozen=True)
class Review:
    """The questions of a run and the files that take the answers."""

    folder: Path
    queue: ReviewQueue
    earlier: list[int]
    """Rows of images with an earlier answer, the latest last: questions in front of those of the queue."""
    lock: threading.Lock
    """ClassProbabilities come on threads of their own, and each reads the files that it writes."""

    @property
    def rows(self) -> list[int]:
        """Row of each head."""
        return [*self.earlier, *self.queue.rows]

    @property
    def path(self) -> Path:
        """Of the corrections."""
        return self.folder / "corrections.h5"

    def known(self) -> np.ndarray:
        """What people have said so far, here or elsewhere, int8 [N, C] of the train images."""
        return carried_over(self.before(), self.queue.labels.image_ids, self.queue.labels.class_names)

    def before(self) -> Corrections | None:
        """The file as it is."""
        return read(self.path) if self.path.exists() else None

    def answer(self, index: int, present: list[int] | None) -> dict[str, Any]:
        """Write what a person says of a head, or (None) undo the last answer to it.

        Undoing brings back what was known before that answer, an earlier answer included.

        Args:
            index: of the head.
            present: the classes that are in the photo, none of the others is.

        Returns:
            The head as it is now, and as `corrected` the number of images of which something is known.

        Raises:
            WrongAnswer: there is no such head or class.
        """
        train = self.queue.labels.manifest
        if not 0 <= index < len(self.rows):
            raise WrongAnswer(f"there is no head {index}")
        if present is not None and not all(0 <= c < len(train.class_names) for c in present):
            raise WrongAnswer("there is no such class")
        row = self.rows[index]
        with self.lock, locked(self.folder):
            labels, log = self.known(), read_log(self.folder)
            before = labels[row].copy()
            if present is None:
                labels[row] = self.undone(row, before, log)
            else:
                labels[row] = 0
                labels[row, present] = 1
                log.append(Answer(train.image_ids[row], self.by_class(before), self.by_class(labels[row])))
            write(self.path, corrections_of(train, labels, self.before()))
            write_log(self.folder, log)
        return {"corrected": corrected_images(labels), **self.head(row, labels[row])}

    def undone(self, row: int, now: np.ndarray, log: list[Answer]) -> np.ndarray:
        """What is known of an image without its last answer, int8 [C]; takes that out of the log.

        Nothing is known without an answer that is not in the log. What was said of the image since, elsewhere, stays.
        """
        image_id, names = self.queue.labels.image_ids[row], self.queue.labels.class_names
        last = next((n for n in reversed(range(len(log))) if log[n].image_id == image_id), None)
        if last is None:
            return np.full_like(now, UNTOUCHED)
        answer = log.pop(last)
        before, after = ([said.get(name, UNTOUCHED) for name in names] for said in (answer.before, answer.after))
        return np.where(now == after, before, now)

    def by_class(self, known: np.ndarray) -> dict[str, int]:
        """What is known of an image, by class."""
        return {self.queue.labels.class_names[c]: int(known[c]) for c in np.flatnonzero(known != UNTOUCHED)}

    def head(self, row: int, known: np.ndarray) -> dict[str, Any]:
        """The ticks of an image, and whether they are a person's answer."""
        answered = is_answer(known)
        present = known == 1 if answered else self.queue.labels.present[row]
        return {"present": np.flatnonzero(present).tolist(), "answered": bool(answered)}

    def content(self) -> dict[str, Any]:
        """What the page shows."""
        labels = self.queue.labels
        known = self.known()
        questions = []
        for row in self.rows:
            questions.append(
                {
                    "id": labels.image_ids[row],
                    "doubtful": self.queue.doubtful[row].tolist(),
                    "scores": [round(float(score), 3) for score in labels.labels[row]],
                    **self.head(row, known[row]),
                }
            )
        index_of = {labels.image_ids[row]: index for index, row in enumerate(self.rows)}
        latest = {answer.image_id: n for n, answer in enumerate(read_log(self.folder)) if answer.image_id in index_of}
        history = [index_of[image_id] for image_id in sorted(latest, key=latest.__getitem__)]
        names = {"run": self.folder.resolve().name, "argument": run_argument(self.folder)}
        return {
            **names,
            "classes": labels.class_names,
            "questions": questions,
            "history": history,
            "earlier": len(self.earlier),
        }


class ReviewServer(ThreadingHTTPServer):
    """Serves one review on the loopback address, to those who know its token."""

    daemon_threads = True

    def __init__(self, review: Review, port: int = 0) -> None:
        self.review = review
        self.token = secrets.token_urlsafe(24)
        super().__init__((HOST, port), ReviewHandler)

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"


class ReviewHandler(BaseHTTPRequestHandler):
    """ClassProbabilities one request: the page, a photo of a head, or an answer to one."""

    server: ReviewServer
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is for what matters."""

    def place(self) -> str | None:
        """The path behind the token; None, and an answer, where the request is not of our page.

        The name of the host is checked as well: a foreign page whose own name leads to this machine has no other.
        """
        host = self.headers.get("Host", "")
        path = urlsplit(self.path).path
        token, _, rest = path.lstrip("/").partition("/")
        named = host in (f"{HOST}:{self.server.server_port}", f"localhost:{self.server.server_port}")
        if not named or not secrets.compare_digest(token.encode(), self.server.token.encode()):
            self.reply(HTTPStatus.NOT_FOUND, b"not found", "text/plain")
            return None
        return rest

    def do_GET(self) -> None:
        """The page or a photo."""
        rest = self.place()
        if rest is None:
            return
        review = self.server.review
        name, _, number = rest.partition("/")
        try:
            if rest == "":
                page = render("review", review.content())
                self.reply(HTTPStatus.OK, page.encode(), "text/html; charset=utf-8")
            elif name == "photo" and number.isdecimal() and int(number) < len(review.rows):
                path = review.queue.labels.manifest.paths[review.rows[int(number)]]
                self.reply(HTTPStatus.OK, jpeg(Path(path), PHOTO_SIDE), "image/jpeg")
            else:
                self.reply(HTTPStatus.NOT_FOUND, b"not found", "text/plain")
        except PipelineError as error:
            self.reply(HTTPStatus.INTERNAL_SERVER_ERROR, str(error).encode(), "text/plain; charset=utf-8")

    def do_POST(self) -> None:
        """An answer, {"index": number, "present": [class, ...]}, or with null for the classes its undoing."""
        rest = self.place()
        if rest is None:
            return
        length = self.headers.get("Content-Length", "")
        kind = self.headers.get("Content-Type", "").split(";")[0]
        if rest != "answer" or kind != "application/json" or not length.isdecimal() or int(length) > MOST_BYTES:
            self.close_connection = True  # what follows is not read
            self.reply(HTTPStatus.BAD_REQUEST, b"not an answer", "text/plain")
            return
        try:
            said = json.loads(self.rfile.read(int(length)))
            head = self.server.review.answer(*checked(said))
        except (ValueError, RecursionError, WrongAnswer) as error:
            self.reply(HTTPStatus.BAD_REQUEST, str(error).encode(), "text/plain; charset=utf-8")
        except PipelineError as error:
            self.reply(HTTPStatus.INTERNAL_SERVER_ERROR, str(error).encode(), "text/plain; charset=utf-8")
        else:
            self.reply(HTTPStatus.OK, json.dumps(head).encode(), "application/json")

    def reply(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        """Send a whole response."""
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def is_answer(known: np.ndarray) -> np.ndarray:
    """Whether a person has said something of every class, bool [...] of int8 [..., C]."""
    return (known != UNTOUCHED).all(-1)


def answered_rows(folder: Path, labels: LabelSet, known: np.ndarray) -> list[int]:
    """Rows of the images with an answer, the latest last; those that the log lacks come first."""
    latest = {answer.image_id: n for n, answer in enumerate(read_log(folder))}
    rows = np.flatnonzero(is_answer(known)).tolist()
    return sorted(rows, key=lambda row: latest.get(labels.image_ids[row], -1))


def corrected_images(labels: np.ndarray) -> int:
    """Images of which corrections [N, C] say anything."""
    return int((labels != UNTOUCHED).any(1).sum())


def checked(said: Any) -> tuple[int, list[int] | None]:
    """Index and classes of an answer.

    Raises:
        WrongAnswer: it has another form.
    """
    if not isinstance(said, dict) or set(said) != {"index", "present"}:
        raise WrongAnswer("expected index and present")
    index, present = said["index"], said["present"]
    whole = [index] if present is None else [index, *present] if isinstance(present, list) else [None]
    if not all(type(number) is int for number in whole):
        raise WrongAnswer("expected whole numbers")
    return index, present


def open_review(folder: Path, count: int, chosen: Path | None = None, port: int = 0) -> ReviewServer:
    """A server that is ready to be started with `serve_forever`.

    Args:
        folder: the run folder.
        count: most images.
        chosen: CSV with the column image_id, as the report saves a selection.
        port: 0 for any that is free.

    Raises:
        PipelineError: there are no final labels, or the port is taken.
    """
    queue = review_queue(folder, count, chosen)
    review = Review(folder, queue, [], threading.Lock())
    if chosen is None:
        asked = set(queue.rows)
        before = [row for row in answered_rows(folder, queue.labels, review.known()) if row not in asked]
        review = replace(review, earlier=before[-MOST_EARLIER:])
    try:
        return ReviewServer(review, port)
    except OSError as error:
        raise PipelineError(f"port {port} cannot be used ({error.strerror}). Give another to --port.") from error


def run(folder: Path, count: int, *, chosen: Path | None = None, port: int = 0) -> None:
    """Serve the page until Ctrl-C; arguments as of `open_review`."""
    with open_review(folder, count, chosen, port) as server:
        earlier = f" ({len(server.review.earlier)} with earlier answers)" if server.review.earlier else ""
        log(f"{len(server.review.queue.rows)} images to look at{earlier}: open {server.address} (Ctrl-C ends).")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    corrected, name = corrected_images(server.review.known()), run_argument(folder)
    log(
        f"{server.review.path}: corrected photos: {corrected}. Go on with `ccd fuse --run {name}` and "
        f"`ccd train --run {name}`."
    )
