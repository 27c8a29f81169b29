"""The HTTP server of `ccd review` and `ccd serve`: its socket, the requests it refuses, and its error responses."""

import asyncio
import contextlib
import ipaddress
import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from python_multipart.multipart import parse_options_header
from starlette.applications import Starlette
from starlette.datastructures import FormData, Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.system.errors import PipelineError
from pipeline.system.progress import log
from pipeline.web.page import HEADERS

MAX_CONNECTIONS = 256
"""Open connections. Above it the server closes the one that has been sending its request for the longest time. If all
requests are complete, it answers those above twice this number with status 503."""

REQUEST_SECONDS = 10
"""Time in which a client must send a request, plus 1 s per `BYTES_PER_SECOND`; also the time to read the response."""

BYTES_PER_SECOND = 20_000


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


async def _disconnected(request: Request, error: ClientDisconnect) -> Response:
    return error_response(HTTPStatus.BAD_REQUEST, "the client closed the connection")  # nobody reads it


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


@asynccontextmanager
async def form(request: Request, megabytes: float) -> AsyncIterator[FormData]:
    """The content of a multipart form; its files are closed at the end.

    Raises:
        HTTPException: the body is not a form in UTF-8, or too large, see `limited`.
    """
    check_content_type(request, "multipart/form-data")
    _, parameters = parse_options_header(request.headers["content-type"])
    if parameters.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected a form in UTF-8")
    # the text fields, which are kept in memory, have no meaning
    async with limited(request, megabytes).form(max_fields=100, max_part_size=10_000) as content:
        yield content


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
    """Pass on the requests of our own pages and of programs, and refuse those of the pages of other sites.

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
            elif scope["method"] == "POST" and not _same_origin(Headers(scope=scope)):
                app = error_response(HTTPStatus.FORBIDDEN, "the request comes from a page of another origin")
        await app(scope, receive, send)


def _names_loopback(header: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{header}").hostname or "")
    except ValueError:
        return False


def _same_origin(headers: Headers) -> bool:
    """Whether a request comes from a program or from our own page; browsers name the origin of a form."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")


def build_app(routes: Sequence[Route], host: str, token: str | None = None) -> Starlette:
    """The application with its error responses and a `RequestFilter`, strict if `host` is a loopback address."""
    return Starlette(
        routes=routes if token is None else [Mount(f"/{token}", Router(routes, redirect_slashes=False))],
        middleware=[Middleware(RequestFilter, loopback_only=is_loopback(host), token=token)],
        exception_handlers={
            HTTPException: _http_error,
            PipelineError: _pipeline_error,
            ClientDisconnect: _disconnected,
        },
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


class Connection(H11Protocol):
    """A connection that is closed when its client is slower than `REQUEST_SECONDS` and `BYTES_PER_SECOND`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.since = 0.0
        """Time since which the client may send a request."""
        self._received = 0
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    @property
    def is_receiving(self) -> bool:
        """Whether the next request is not complete yet."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Close the slowest connection if there are too many."""
        others = [other for other in self.connections if not other.transport.is_closing()]
        receiving = [other for other in others if other.is_receiving]
        if receiving and len(others) >= MAX_CONNECTIONS:
            min(receiving, key=lambda other: other.since).transport.abort()
        super().connection_made(transport)
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        super().connection_lost(exc)
        for timer in (self._timer, self._unread):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Count the bytes."""
        self._received += len(data)
        super().data_received(data)

    def handle_events(self) -> None:
        """Refuse headers that uvicorn fails on, such as a length of thousands of digits."""
        try:
            super().handle_events()
        except ValueError:
            self.send_400_response("Invalid HTTP request received.")

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._expect_request()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Begin to wait until the client reads the response."""
        super().pause_writing()
        self._unread = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop waiting."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def _expect_request(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.since, self._received = self.loop.time(), 0
        self._timer = self.loop.call_later(REQUEST_SECONDS, self._check_speed)

    def _check_speed(self) -> None:
        """Close the connection, or check again when the next bytes are due."""
        rest = self.since + REQUEST_SECONDS + self._received / BYTES_PER_SECOND - self.loop.time()
        if self.is_receiving and rest <= 0:
            self.transport.abort()
        elif self.is_receiving:
            self._timer = self.loop.call_later(rest, self._check_speed)


def uvicorn_config(app: Starlette, *, verbose: bool) -> uvicorn.Config:
    """The settings of the server, which logs every request if `verbose`."""
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_level="info" if verbose else "error",
        access_log=verbose,
        limit_concurrency=2 * MAX_CONNECTIONS,  # handlers of closed connections end a little later
    )


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
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn finishes open requests, then raises it again
            uvicorn.Server(uvicorn_config(app, verbose=verbose)).run(sockets=[listening])
