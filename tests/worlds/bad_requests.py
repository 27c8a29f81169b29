"""Requests that a server must refuse, drawn at random, and forms of photos."""

import contextlib
import random
import socket
import struct
import zlib
from collections.abc import Callable, Mapping

from worlds.photos import photo_bytes

BOUNDARY = "boundary-of-the-tests"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
CLAIMED = 9990
"""Side in pixels that a `claiming_png` claims: just below the limit of 100 megapixels."""
DIGITS = "9" * 4400
"""More digits than Python converts to a number."""
CHARSETS = ("undefined", "idna", "punycode", "utf-7", "raw_unicode_escape", "zlib", "a\0b", "x" * 300, '"', DIGITS)


def form(files: Mapping[str, bytes]) -> bytes:
    """A form with files, name to content."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="photo"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in files.items()
    ]
    return b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


def post(body: bytes, kind: str = FORM, path: str = "/predict", **headers: str) -> bytes:
    """The bytes of a POST request that closes its connection."""
    fields = {"Host": "localhost", "Connection": "close", "Content-Type": kind, "Content-Length": str(len(body))}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in (fields | headers).items()), "", ""]
    return "\r\n".join(lines).encode() + body


def claiming_png(width: int = CLAIMED, height: int = CLAIMED) -> bytes:
    """A PNG of about 100 bytes that claims many pixels and ends in the first row."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Content with up to 20 changed bytes, perhaps cut."""
    content = bytearray(content)
    for _ in range(draw.randint(1, 20)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content[: draw.randint(1, len(content))] if draw.random() < 0.5 else content)


def _claims(draw: random.Random) -> bytes:
    return post(form({f"{n}.png": claiming_png() for n in range(draw.choice((1, 3, 8, 32)))}))


def _broken_photos(draw: random.Random) -> bytes:
    kinds = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
    photos = {f"{n}": photo_bytes((40, 56), draw.choice(kinds), n) for n in range(draw.randint(1, 4))}
    return post(form({name: damaged(content, draw) for name, content in photos.items()}))


def _broken_form(draw: random.Random) -> bytes:
    return post(damaged(form({"a.jpg": photo_bytes((40, 56), "JPEG")}), draw))


def _charset(draw: random.Random) -> bytes:
    # bytes that UTF-7 and raw_unicode_escape decode to half a character
    name = draw.choice(("+2AA-", "\\ud800", "\xff", "x" * 5000)).encode("latin-1")
    body = form({"NAME": b"no photo"}).replace(b"NAME", name)
    return post(body, f"{FORM}; charset={draw.choice(CHARSETS)}")


def _number(draw: random.Random) -> bytes:
    digits = draw.choice((DIGITS, "9" * 20, "-1", "1_0", "0x9", "\xb2"))
    if draw.random() < 0.3:
        return f"GET /photo/{digits} HTTP/1.1\r\nHost: localhost:{digits}\r\nConnection: close\r\n\r\n".encode(
            "latin-1"
        )
    if draw.random() < 0.3:
        return post(digits.encode(), **{"Content-Length": "", "Transfer-Encoding": "chunked"})
    return post(b"", **{"Content-Length": digits})


def _many_parts(draw: random.Random) -> bytes:
    if draw.random() < 0.5:
        return post(form({f"{n}.jpg": bytes(50_000) for n in range(40)}))
    return post(form({f"{n}": bytes(50_000) for n in range(40)}).replace(b"; filename=", b"; other="))


def _foreign(draw: random.Random) -> bytes:
    body = form({"a.jpg": photo_bytes((40, 56), "JPEG")})
    site = {"Sec-Fetch-Site": draw.choice(("cross-site", "same-site"))}
    return post(body, **draw.choice((site, {"Origin": draw.choice(("https://evil.example", "null", "[", DIGITS))})))


def _unfinished(draw: random.Random) -> bytes:
    whole = post(form({"a.jpg": photo_bytes((300, 300), "BMP")}))
    return whole[: draw.randrange(len(whole))]


def _noise(draw: random.Random) -> bytes:
    return draw.choice((b"", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01")) + draw.randbytes(draw.randint(1, 40_000))


KINDS: tuple[Callable[[random.Random], bytes], ...] = (
    *(_claims, _broken_photos, _broken_form, _charset, _number, _many_parts, _foreign, _unfinished, _noise),
)


UNFINISHED = (_number, _unfinished, _noise)
"""Kinds after which the server may wait for more."""


def bad_request(draw: random.Random) -> tuple[bytes, bool]:
    """A request of a random kind, and whether it is finished."""
    kind = draw.choice(KINDS)
    return kind(draw), kind not in UNFINISHED


def sent(port: int, request: bytes, *, finished: bool = True, seconds: float = 60) -> int | None:
    """Status of the response to the bytes of a request; None if the connection ends without one.

    Args:
        port: of the server on this machine.
        request: its bytes.
        finished: wait for the response; otherwise close the connection after 0.2 s.
        seconds: to wait for a response.

    Raises:
        TimeoutError: a finished request has no response.
    """
    response = b""
    with socket.create_connection(("127.0.0.1", port), seconds) as connection:
        with contextlib.suppress(ConnectionError):  # the server may respond before it has read everything
            connection.sendall(request)
        connection.settimeout(seconds if finished else 0.2)
        try:
            while part := connection.recv(65536):
                response += part
        except ConnectionError:
            pass
        except TimeoutError:
            if finished:
                raise
    return int(response.split()[1]) if response.startswith(b"HTTP/") else None
