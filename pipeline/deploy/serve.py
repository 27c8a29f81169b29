"""A classifier file to a web service: photos in, labels and scores out, and a page to drop photos on."""

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import torch
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from torch import Tensor

from pipeline.artifacts.predictions import present_classes
from pipeline.deploy.classifier import Classifier, square_or_error
from pipeline.photos.images import MAX_PIXELS, UnreadableImage, claimed_cost
from pipeline.photos.prefetch import default_workers
from pipeline.runs.options import ServeConfig
from pipeline.system.memory import return_freed_memory
from pipeline.web import server
from pipeline.web.page import render

LARGE = 50_000_000
"""Pixels of a request after which the freed memory is returned to the kernel."""


@dataclass
class Batch:
    """Photos that go through the network together."""

    squares: list[Tensor] = field(default_factory=list)
    scores: Future[np.ndarray] = field(default_factory=Future)
    """float32 [B, C]."""


class Batcher:
    """Score the photos of all requests on one thread; photos that arrive meanwhile form the next batch.

    Args:
        classifier: scores the photos.
        size: maximum number of photos per batch.
    """

    def __init__(self, classifier: Classifier, size: int) -> None:
        self._classifier = classifier
        self._size = size
        self._thread = ThreadPoolExecutor(1)
        self._lock = threading.Lock()
        self._open: Batch | None = None

    def add(self, square: Tensor) -> tuple[Future[np.ndarray], int]:
        """The future scores of the photo's batch, and the photo's row in them."""
        with self._lock:
            batch = self._open
            if batch is None or len(batch.squares) == self._size:
                batch = self._open = Batch()
                batch.scores = self._thread.submit(self._score, batch)
            batch.squares.append(square)
            return batch.scores, len(batch.squares) - 1

    def _score(self, batch: Batch) -> np.ndarray:
        with self._lock:  # the first photo is appended while the lock is held
            if self._open is batch:
                self._open = None
        return self._classifier.score_batch(torch.stack(batch.squares))


class Service:
    """The requests that the service answers.

    Args:
        classifier: scores the photos.
        name: title of the page.
        config: limits and batch size.
    """

    def __init__(self, classifier: Classifier, name: str, config: ServeConfig) -> None:
        self._classifier = classifier
        self._config = config
        self._batcher = Batcher(classifier, config.batch_size)
        self._decoders = ThreadPoolExecutor(default_workers())
        thresholds = zip(classifier.class_names, classifier.thresholds.tolist(), strict=True)
        self._classes = [{"name": class_name, "threshold": threshold} for class_name, threshold in thresholds]
        self._page = render("serve", {"name": name, "classes": self._classes, "photo_mb": config.photo_mb})

    async def page(self, request: Request) -> Response:
        """The page to drop photos on."""
        return server.html(self._page)

    async def health(self, request: Request) -> Response:
        """Status 200 while the service runs."""
        return server.json_response({"status": "ok"})

    async def classes(self, request: Request) -> Response:
        """Names and thresholds of the classes."""
        return server.json_response({"classes": self._classes})

    async def predict(self, request: Request) -> Response:
        """For each photo of a form its name, and labels and scores or an error; status 422 if every photo has an error."""
        loop = asyncio.get_running_loop()
        async with server.form(request, self._config.body_mb) as form:
            uploads = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            self._check(uploads)
            costs = await loop.run_in_executor(self._decoders, _costs, uploads)
            if sum(costs) > self._config.megapixels * 1_000_000:
                text = f"the photos have more than {self._config.megapixels} megapixels together; send several requests"
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
            photos = await asyncio.gather(*map(self._predicted, uploads, costs))
        if sum(costs) > LARGE:
            await loop.run_in_executor(self._decoders, return_freed_memory)
        failed = all("error" in photo for photo in photos)
        return server.json_response({"photos": photos}, HTTPStatus.UNPROCESSABLE_ENTITY if failed else HTTPStatus.OK)

    def _check(self, uploads: list[UploadFile]) -> None:
        """Raise HTTPException if there are no photos, too many, or too large ones."""
        config = self._config
        if not uploads:
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, "the form has no file; send at least one photo")
        if len(uploads) > config.photos:
            text = f"the request has {len(uploads)} photos, the limit is {config.photos}; send several requests"
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
        for upload in uploads:
            if (upload.size or 0) > config.photo_mb * 1_000_000:
                text = f"{upload.filename!r} is larger than {config.photo_mb} MB"
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)

    async def _predicted(self, upload: UploadFile, cost: int) -> dict[str, Any]:
        """The part of the response about one photo."""
        square = await asyncio.get_running_loop().run_in_executor(self._decoders, self._decoded, upload, cost)
        if isinstance(square, UnreadableImage):
            return {"name": upload.filename, "error": str(square)}
        future, row = self._batcher.add(square)
        # shielded: a cancelled request must not cancel the scores of other requests in its batch
        scores = (await asyncio.shield(asyncio.wrap_future(future)))[row]
        names = self._classifier.class_names
        (labels,) = present_classes(scores[None], self._classifier.thresholds, names)
        return {"name": upload.filename, "labels": labels, "scores": dict(zip(names, scores.tolist(), strict=True))}

    def _decoded(self, upload: UploadFile, cost: int) -> Tensor | UnreadableImage:
        """Read and decode on a thread: uploads may be on disk."""
        if cost > MAX_PIXELS:
            return UnreadableImage(
                "decoding the photo needs too much memory. Scale it down, or send it as JPEG or PNG."
            )
        return square_or_error(upload.file.read(), self._classifier.image_size, self._classifier.net.resize_filter)


def _costs(uploads: list[UploadFile]) -> list[int]:
    """Pixels to decode of each photo, by its header."""
    costs = []
    for upload in uploads:
        costs.append(claimed_cost(upload.file.read()))
        upload.file.seek(0)
    return costs


def build_app(classifier: Classifier, name: str, config: ServeConfig) -> Starlette:
    """The web application; arguments as for `Service`."""
    service = Service(classifier, name, config)
    routes = [
        Route("/", service.page),
        Route("/healthz", service.health),
        Route("/classes", service.classes),
        Route("/predict", service.predict, methods=["POST"]),
    ]
    return server.build_app(routes, config.host)


def run(classifier_path: Path, config: ServeConfig, *, device: str, verbose: bool = False) -> None:
    """Serve a classifier file on a torch device until Ctrl-C.

    Raises:
        PipelineError: the file is missing or invalid, or the server cannot bind to the address.
    """
    classifier = Classifier.load(classifier_path, device)
    name = f"{classifier_path.resolve().parent.name}/{classifier_path.name}"
    app = build_app(classifier, name, config)
    server.serve(app, config.host, config.port, str(classifier_path), verbose=verbose)
