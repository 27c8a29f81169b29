"""The page of `ccd review`: a person corrects the labels of a run, and every correction is written at once."""

import re
import secrets
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.photos.drawing import jpeg
from pipeline.review.session import Review, corrected_images, open_review
from pipeline.runs.graph import run_argument
from pipeline.system.progress import log
from pipeline.web import server
from pipeline.web.page import HEADERS, render

HOST = "127.0.0.1"
"""Other machines must neither see nor correct the photos."""

PHOTO_SIDE = 1100
"""Longest side of a photo on the page, pixels."""

CORRECTION_MB = 0.1
"""Largest correction that the server accepts."""


def build_app(review: Review, token: str) -> Starlette:
    """The web application: the page at `/TOKEN/`, its photos, and the corrections of them."""

    def page(request: Request) -> Response:
        return server.html(render("review", review.content()))

    def photo(request: Request) -> Response:
        text = request.path_params["index"]
        index = int(text) if re.fullmatch("[0-9]{1,9}", text) else len(review.rows)
        if index >= len(review.rows):
            raise HTTPException(HTTPStatus.NOT_FOUND, f"there is no photo {text[:20]}")
        path = Path(review.queue.labels.manifest.paths[review.rows[index]])
        return Response(jpeg(path, PHOTO_SIDE), headers=HEADERS, media_type="image/jpeg")

    async def save(request: Request) -> Response:
        server.check_content_type(request, "application/json")
        try:
            correction = await server.limited(request, CORRECTION_MB).json()
        except (ValueError, RecursionError) as error:
            raise HTTPException(HTTPStatus.BAD_REQUEST, f"the correction is not JSON: {error}") from error
        index, present = check_correction(correction, len(review.rows), len(review.queue.labels.class_names))
        return server.json_response(await run_in_threadpool(review.save, index, present))

    routes = [
        Route("/", page),
        Route("/photo/{index}", photo),
        Route("/correction", save, methods=["POST"]),
    ]
    return server.build_app(routes, HOST, token)


def check_correction(correction: Any, photos: int, classes: int) -> tuple[int, list[int] | None]:
    """Photo index and present classes of `{"index": 0, "present": [1, 2]}`; None for `null`, which undoes.

    Raises:
        HTTPException: the correction has another form, or there is no such photo or class.
    """
    if not isinstance(correction, dict) or set(correction) != {"index", "present"}:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "expected an object with index and present")
    index, present = correction["index"], correction["present"]
    if type(index) is not int or not 0 <= index < photos:
        raise HTTPException(HTTPStatus.BAD_REQUEST, f"there is no photo {index!r}")
    if present is None:
        return index, None
    if not isinstance(present, list) or not all(type(c) is int and 0 <= c < classes for c in present):
        raise HTTPException(HTTPStatus.BAD_REQUEST, f"present must be a list of class indices below {classes}, or null")
    return index, present


def run(folder: Path, count: int, *, chosen: Path | None = None, class_name: str = "", port: int = 0) -> None:
    """Serve the page until Ctrl-C; see `open_review` and `pipeline.web.server.listen` for arguments and errors."""
    review = open_review(folder, count, chosen, class_name)
    token = secrets.token_urlsafe(24)
    earlier = f" and {review.earlier} from earlier reviews" if review.earlier else ""
    started = f"{len(review.queue.rows)} photos to review{earlier}"
    server.serve(build_app(review, token), HOST, port, started, path=f"{token}/")
    name = run_argument(folder)
    log(f"{review.path}: corrected photos: {corrected_images(review.labels())}. Train on them with `ccd all {name}`.")
