"""The HTTP server of `ccd review` and `ccd serve`: its socket, the requests it refuses, and its error responses."""

import contextlib
import ipaddress
import secrets
import socket
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.system.errors import PipelineError
from pipeline.system.progress import log
from pipeline.web.page import HEADERS

MAX_CONNECTIONS = 256
"""Open connections; the server answers further ones with status 503."""


def html(page: str) -> Response:
    """A page, status 200."""
    return HTMLResponse(page, headers=HEADERS)


def json_response(content: Any, status: int = HTTPStatus.OK) -> Response:
    """JSON, never cached."""
    return JSONResponse(content, status, headers=HEADERS)


def error_response(status: int, text: str) -> Response:
    """The JSON `{"error": text}`, the form of every error."""
    return json_response({"error": text}, status)


async def _http_error(request: Request, error: HTTPException) -> Response:
    return error_response(error.status_code, error.detail)


async def _pipeline_error(request: Request, error: PipelineError) -> Response:
    return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))


def limited(request: Request, megabytes: float) -> Request:
    """The request with a body of limited size: raises HTTPException with status 413 as soon as more bytes are announced or arrive."""
    limit = round(megabytes * 1_000_000)
    too_large = HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request is larger than {megabytes} MB")
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large
    size = 0

    async def receive() -> Message:
        nonlocal size
        message = await request.receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise too_large
        return message

    return Request(request.scope, receive)


def check_content_type(request: Request, expected: str) -> None:
    """Raise HTTPException with status 415 if the body has another type; forms of other sites cannot send application/json."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != expected:
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"expected the content type {expected}")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class RequestFilter:
    """Pass on the requests of our own pages and refuse foreign ones.

    Args:
        app: receives the accepted requests.
        loopback_only: refuse a Host header that is neither a loopback address nor localhost. A site whose name resolves
            to this machine sends its own name.
        token: refuse a path whose first part is not this token, so that other users of this machine cannot open the page;
            None accepts every path.
    """

    def __init__(self, app: ASGIApp, *, loopback_only: bool, token: str | None) -> None:
        self._app = app
        self._loopback_only = loopback_only
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        app = self._app
        if scope["type"] == "http":
            first = scope["path"].lstrip("/").partition("/")[0]
            if self._token is not None and not secrets.compare_digest(first.encode(), self._token.encode()):
                app = error_response(HTTPStatus.NOT_FOUND, "not found")
            elif self._loopback_only and not _names_loopback(Headers(scope=scope).get("host", "")):
                text = "the Host header names neither localhost nor a loopback address"
                app = error_response(HTTPStatus.BAD_REQUEST, text)
        await app(scope, receive, send)


def _names_loopback(header: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{header}").hostname or "")
    except ValueError:
        return False


def build_app(routes: Sequence[Route], host: str, token: str | None = None) -> Starlette:
    """The application with its error responses and a `RequestFilter`, strict if `host` is a loopback address."""
    return Starlette(
        routes=routes if token is None else [Mount(f"/{token}", Router(routes, redirect_slashes=False))],
        middleware=[Middleware(RequestFilter, loopback_only=is_loopback(host), token=token)],
        exception_handlers={HTTPException: _http_error, PipelineError: _pipeline_error},
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 stands for any free port.

    Raises:
        PipelineError: the address is not of this machine, or the port is in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise PipelineError(f"Cannot bind to {host}, port {port} ({error.strerror}). Choose another one.") from error


def serve(app: Starlette, host: str, port: int, started: str, *, path: str = "", verbose: bool = False) -> None:
    """Serve until Ctrl-C, after one line with `started` and the address.

    Args:
        app: see `build_app`.
        host: see `listen`.
        port: see `listen`.
        started: what is ready.
        path: path of the page, without a leading slash.
        verbose: log every request.
    """
    with listen(host, port) as listening:
        name = f"[{host}]" if ":" in host else host
        log(f"{started}: open http://{name}:{listening.getsockname()[1]}/{path} (Ctrl-C stops the server).")
        config = uvicorn.Config(
            app,
            log_level="info" if verbose else "warning",
            access_log=verbose,
            limit_concurrency=MAX_CONNECTIONS,
        )
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn finishes open requests, then raises it again
            uvicorn.Server(config).run(sockets=[listening])
