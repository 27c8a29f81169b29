"""A classifier file to a small web service: photos in, labels and scores out, and a page to drop photos on."""

import asyncio
import contextlib
import ipaddress
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts.predictions import present_classes
from pipeline.deploy.classifier import Classifier, square_or_error
from pipeline.photos.images import UnreadableImage
from pipeline.photos.prefetch import default_workers
from pipeline.runs.options import ServeConfig
from pipeline.system.errors import PipelineError
from pipeline.system.progress import log
from pipeline.web.page import HEADERS, render

try:
    import python_multipart  # noqa: F401 - starlette reads forms with it
    import uvicorn
    from starlette.applications import Starlette
    from starlette.datastructures import Headers, UploadFile
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as missing:
    raise PipelineError(
        f"`ccd serve` needs a package that is missing ({missing.name}). Install with `pip install '.[serve]'`."
    ) from missing

MEGABYTE = 1_000_000

MOST_CONNECTIONS = 256
"""At a time; further ones are told to come back (503)."""


@dataclass
class Batch:
    """Photos that go through the network together."""

    squares: list[Tensor] = field(default_factory=list)
    scores: Future[np.ndarray] = field(default_factory=Future)
    """float32 [B, C], once the network has seen them."""


class Batcher:
    """Scores the photos of all requests on one thread; while it works, those that come gather in the next batch.

    Args:
        classifier: scores them.
        size: most photos of a batch.
    """

    def __init__(self, classifier: Classifier, size: int) -> None:
        self._classifier = classifier
        self._size = size
        self._thread = ThreadPoolExecutor(1)
        self._lock = threading.Lock()
        self._open: Batch | None = None

    def add(self, square: Tensor) -> tuple[Future[np.ndarray], int]:
        """The future scores of the batch that a photo goes into, and its row in them."""
        with self._lock:
            batch = self._open
            if batch is None or len(batch.squares) == self._size:
                batch = self._open = Batch()
                batch.scores = self._thread.submit(self._score, batch)
            batch.squares.append(square)
            return batch.scores, len(batch.squares) - 1

    def _score(self, batch: Batch) -> np.ndarray:
        with self._lock:  # also until the first photo is in
            if self._open is batch:
                self._open = None
        return self._classifier.score_batch(torch.stack(batch.squares))


class Service:
    """ClassProbabilities requests about one classifier.

    Args:
        classifier: scores the photos.
        name: of it, for the page.
        config: limits and size of batches.
    """

    def __init__(self, classifier: Classifier, name: str, config: ServeConfig) -> None:
        self._classifier = classifier
        self._config = config
        self._batcher = Batcher(classifier, config.batch_size)
        self._decoders = ThreadPoolExecutor(default_workers())
        known = zip(classifier.class_names, classifier.thresholds.tolist(), strict=True)
        self._classes = [{"name": class_name, "threshold": threshold} for class_name, threshold in known]
        self._page = render("serve", {"name": name, "classes": self._classes, "photo_mb": config.photo_mb})

    async def page(self, request: Request) -> Response:
        """The page to drop photos on."""
        return HTMLResponse(self._page, headers=HEADERS)

    async def health(self, request: Request) -> Response:
        """That the service is up."""
        return answer({"status": "ok"})

    async def classes(self, request: Request) -> Response:
        """Names and thresholds of the classes."""
        return answer({"classes": self._classes})

    async def predict(self, request: Request) -> Response:
        """For each photo of a form its name, and labels and scores or why it has none; 422 where no photo has any."""
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "multipart/form-data":
            raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected photos as files of multipart/form-data")
        async with Request(request.scope, self._limited(request)).form() as form:
            uploads = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            self._check(uploads)
            found = await asyncio.gather(*map(self._predicted, uploads))
        bad = all("error" in each for each in found)
        return answer({"photos": found}, HTTPStatus.UNPROCESSABLE_ENTITY if bad else HTTPStatus.OK)

    def _limited(self, request: Request) -> Receive:
        """What receives the body of a request; raises where it is larger than the limit, by its length or by what has come."""
        most = self._config.body_mb * MEGABYTE
        too_large = HTTPException(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request is larger than {self._config.body_mb} MB"
        )
        if int(request.headers.get("content-length", 0)) > most:
            raise too_large
        come = 0

        async def receive() -> Message:
            nonlocal come
            message = await request.receive()
            come += len(message.get("body", b""))
            if come > most:
                raise too_large
            return message

        return receive

    def _check(self, uploads: list[UploadFile]) -> None:
        """Raise where a request has no photo, or more or larger ones than the limits allow."""
        config = self._config
        if not uploads:
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, "the form has no file, expected at least one photo")
        if len(uploads) > config.photos:
            text = f"{len(uploads)} photos in one request, at most {config.photos}; send them in several"
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
        for upload in uploads:
            if (upload.size or 0) > config.photo_mb * MEGABYTE:
                text = f"{upload.filename!r} is larger than {config.photo_mb} MB"
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)

    async def _predicted(self, upload: UploadFile) -> dict[str, Any]:
        """What is answered of one photo."""
        square = await asyncio.get_running_loop().run_in_executor(self._decoders, self._decoded, upload)
        if isinstance(square, UnreadableImage):
            return {"name": upload.filename, "error": str(square)}
        future, row = self._batcher.add(square)
        # shielded: a request that is given up takes no others of its batch with it
        scores = (await asyncio.shield(asyncio.wrap_future(future)))[row]
        names = self._classifier.class_names
        (labels,) = present_classes(scores[None], self._classifier.thresholds, names)
        return {"name": upload.filename, "labels": labels, "scores": dict(zip(names, scores.tolist(), strict=True))}

    def _decoded(self, upload: UploadFile) -> Tensor | UnreadableImage:
        """Called on a thread, as it reads what may lie on disk; so no more photos are in memory than there are threads."""
        return square_or_error(upload.file.read(), self._classifier.image_size, self._classifier.net.squash)


def answer(content: Any, status: int = HTTPStatus.OK) -> Response:
    """A response of JSON."""
    return JSONResponse(content, status, headers=HEADERS)


async def refused(request: Request, error: HTTPException) -> Response:
    """A response that says why a request is refused."""
    return answer({"error": error.detail}, error.status_code)


def is_loopback(host: str) -> bool:
    """Whether nobody else on the network can reach an address."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class LoopbackNames:
    """ClassProbabilities only requests whose Host header is a loopback address or localhost, with or without a port.

    Args:
        app: answers them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse one request."""
        if scope["type"] == "http" and not self._is_own(Headers(scope=scope).get("host", "")):
            error = {"error": "the Host header names neither localhost nor a loopback address"}
            await answer(error, HTTPStatus.BAD_REQUEST)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    @staticmethod
    def _is_own(header: str) -> bool:
        try:
            return is_loopback(urlsplit(f"//{header}").hostname or "")
        except ValueError:
            return False


def build_app(classifier: Classifier, name: str, config: ServeConfig) -> Starlette:
    """The web application; arguments as of `Service`.

    On a loopback address only requests to one are answered: a foreign page whose name leads to this machine sends that
    name as Host.
    """
    service = Service(classifier, name, config)
    return Starlette(
        routes=[
            Route("/", service.page),
            Route("/healthz", service.health),
            Route("/classes", service.classes),
            Route("/predict", service.predict, methods=["POST"]),
        ],
        middleware=[Middleware(LoopbackNames)] if is_loopback(config.host) else [],
        exception_handlers={HTTPException: refused},
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that waits for connections.

    Raises:
        PipelineError: the address is none of this machine, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise PipelineError(
            f"{host}, port {port}, cannot be listened on ({error.strerror}). Give another --host or --port."
        ) from error


def run(classifier_path: Path, config: ServeConfig, *, device: str, verbose: bool = False) -> None:
    """Serve until Ctrl-C.

    Args:
        classifier_path: file of a classifier.
        config: where, limits and size of batches.
        device: torch device.
        verbose: log every request.

    Raises:
        PipelineError: the file is missing or wrong, or the address cannot be listened on.
    """
    classifier = Classifier.load(classifier_path, device)
    folder = classifier_path.resolve().parent
    app = build_app(classifier, f"{folder.name}/{classifier_path.name}", config)
    with listen(config.host, config.port) as listening:
        host = f"[{config.host}]" if ":" in config.host else config.host
        log(f"{classifier_path}: open http://{host}:{listening.getsockname()[1]}/ (Ctrl-C ends).")
        log_level = "info" if verbose else "warning"
        server = uvicorn.Server(
            uvicorn.Config(app, log_level=log_level, access_log=verbose, limit_concurrency=MOST_CONNECTIONS)
        )
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn answers what is under way, then passes it on
            server.run(sockets=[listening])
