"""File systems of addresses; those of web servers with limits, as the servers may be anyone's."""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Iterable, Sequence, Set
from contextlib import suppress
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from pipeline.system.errors import PipelineError, first_line

SCHEMES = ("http", "https")
REDIRECTS = 5
"""Largest number of redirects."""
STALL = 30.0
"""Seconds to connect, for the header of a response, and without a byte of its body, after which a request fails."""
PAGE_SECONDS = 60.0
"""Longest time for the page of one folder."""
FOLDER_SECONDS = 600.0
"""Longest time for the pages of a folder and all folders in it."""
PAGE_BYTES = 32 << 20
"""Largest page of a folder."""


def open_system(address: str, trusted: Set[str] = frozenset()) -> tuple[Any, str]:
    """The file system of fsspec for an address, and the path in it.

    Args:
        address: of a file or folder.
        trusted: hosts that may be in a private network.

    Raises:
        PipelineError: a package is missing.
    """
    try:
        import fsspec

        options = {}
        if is_web(address):
            # the text of these options decides whether fsspec opens another session
            allowed = tuple(sorted(frozenset().union(*map(_machines, trusted))))
            options = {"get_client": _session, "client_kwargs": {"allowed": allowed}, "max_redirects": REDIRECTS}
        # unlike fsspec's url_to_fs, without chains such as "https://a::file:///b", which split an IPv6 address too
        system = fsspec.filesystem(address.split("://")[0], **options)
        return system, system._strip_protocol(address)
    except ImportError as error:
        raise PipelineError(
            f"{address} needs a package that is missing ({first_line(error)}). Install with `pip install '.[remote]'`."
        ) from error


def is_web(address: str) -> bool:
    """Whether an address is of a web server."""
    return address.startswith(("http://", "https://"))


def is_file(system: Any, path: str) -> bool:
    """Whether there is a file; raises what fsspec hides, why a web server cannot be reached."""
    return system.exists(path, strict=True) if is_web(path) else system.isfile(path)


def find_options(address: str) -> dict[str, Any]:
    """Options for the search of a folder; those of web servers hide errors otherwise."""
    return {"timeout": FOLDER_SECONDS, "on_error": "raise"} if is_web(address) else {}


def open_options(address: str) -> dict[str, Any]:
    """Options to open a file: as one stream, whose size nobody has to know, and without a limit of the whole time."""
    if not is_web(address):
        return {}
    import aiohttp

    return {"block_size": 0, "size": 1, "timeout": aiohttp.ClientTimeout(sock_connect=STALL, sock_read=STALL)}


def hosts_of(addresses: Iterable[str]) -> frozenset[str]:
    """The hosts of web addresses."""
    hosts = set()
    for address in filter(is_web, addresses):
        with suppress(ValueError):  # fetching it names the error
            hosts.add(urlsplit(address).hostname or "")
    return frozenset(hosts)


@cache
def _machines(host: str) -> frozenset[str]:
    """The IP addresses of a host; none if it is unknown."""
    try:
        return frozenset(each[4][0] for each in socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):
        return frozenset()


async def _session(*, loop: Any, allowed: Sequence[str]) -> Any:
    """A session that connects only to public IP addresses and to these hosts, also after a redirect."""
    import aiohttp

    class Response(aiohttp.ClientResponse):
        """A response with a limit of time for its header, and of bytes for a body read as a whole: a folder's page."""

        async def start(self, connection: Any) -> Any:
            return await asyncio.wait_for(super().start(connection), STALL)

        async def read(self) -> bytes:
            if self._body is None:
                body = bytearray()
                async for block in self.content.iter_any():
                    body += block
                    if len(body) > PAGE_BYTES:
                        self.close()
                        raise aiohttp.ClientPayloadError(f"its page is larger than {PAGE_BYTES >> 20} MB")
                self._body = bytes(body)
            return self._body

    def connect(info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        if not is_public(address[0]) and address[0] not in allowed:
            raise PermissionError(
                errno.EACCES,
                f"{address[0]} is a private address; to trust it, name an address of its host on the command line",
            )
        return socket.socket(family, kind, protocol)

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=connect),
        timeout=aiohttp.ClientTimeout(total=PAGE_SECONDS, sock_connect=STALL, sock_read=STALL),
        response_class=Response,
    )


def is_public(address: str) -> bool:
    """Whether an IP address is of the public internet, and not private, loopback, link-local, multicast or reserved."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_global and not ip.is_multicast
