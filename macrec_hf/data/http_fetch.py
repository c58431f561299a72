"""One answer over HTTP: within a deadline, and from public addresses alone unless others are asked for."""

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

MAX_BYTES = 50_000_000


class RefusedError(Exception):
    """What another try would not change."""


@dataclass
class Answer:
    """An HTTP answer that came whole.

    Attributes:
        content: its body.
        kind: its content type, such as "image/jpeg".
    """

    content: bytes
    kind: str


def fetch(url: str, timeout: float, deadline: float, allow_private: bool = False) -> Answer:
    """Fetches one address, following redirects.

    Args:
        url: of `http` or `https`, as people write it.
        timeout: seconds without a byte.
        deadline: seconds in all.
        allow_private: whether it may come from this machine or its network. A server could otherwise be made to fetch
            what only this machine can reach. (Names behind a proxy are the proxy's to judge.)

    Raises:
        RefusedError: no such address, a private one, or an answer of more than `MAX_BYTES`.
        TimeoutError: the deadline is over.
        OSError, http.client.HTTPException: no answer, half an answer, or an error of the server's
            (`urllib.error.HTTPError`).
    """
    request = urllib.request.Request(tidy_address(url), headers={"User-Agent": "macrec_hf"})
    watch = _Watch(deadline, allow_private)
    opener = urllib.request.OpenerDirector()  # no other scheme, wherever a redirect leads
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Handler(watch),
    ):
        opener.add_handler(handler)
    try:
        with opener.open(request, timeout=timeout) as answer:
            content = answer.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise RefusedError(f"larger than {MAX_BYTES:,} bytes")
            if answer.length:  # what is still to come, although the connection is at its end
                raise http.client.IncompleteRead(content, answer.length)
            watch.check()
            return Answer(content, answer.headers.get_content_type())
    except Exception as error:
        watch.check(error)
        raise
    finally:
        watch.end()


def tidy_address(url: str) -> str:
    """An address as people write it in the form that HTTP wants: blanks and letters of all scripts encoded.

    Raises:
        RefusedError: it is none of `http` or `https`.
    """
    text = url.strip().replace("\\", "/")
    text = f"https:{text}" if text.startswith("//") else text
    try:
        parts = urllib.parse.urlsplit(text)
        scheme, host, port = parts.scheme.lower(), parts.hostname or "", parts.port
        host = f"[{host}]" if ":" in host else host.encode("idna").decode()
    except ValueError as error:  # UnicodeError is one
        raise RefusedError(f"expected an http address, got {url[:200]!r}: {error}") from error
    if scheme not in ("http", "https") or not host or "@" in parts.netloc:
        raise RefusedError(f"expected an http address, got {url[:200]!r}")
    path, query = (
        urllib.parse.quote(re.sub("%(?![0-9a-fA-F]{2})", "%25", part), safe="%/:@!$&'()*+,;=?[]~-._")
        for part in (parts.path, parts.query)
    )
    return urllib.parse.urlunsplit((scheme, host if port is None else f"{host}:{port}", path or "/", query, ""))


def is_public(address: str) -> bool:
    """Whether an IP address is one that everybody can reach, also where it stands within another one."""
    found: Any = ipaddress.ip_address(address.partition("%")[0])
    if found.version == 6:
        if found in ipaddress.ip_network("64:ff9b::/96"):  # how networks without IPv4 reach it
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if not all(is_public(str(inner)) for inner in (found.sixtofour, *(found.teredo or ())) if inner is not None):
            return False
    return bool(found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified))


@dataclass
class _Watch:
    """Connects to what may be connected to, and breaks the connection off when the time is over."""

    deadline: float
    allow_private: bool
    expired: bool = False
    handle: socket.socket | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.timer = threading.Timer(self.deadline, self._expire)
        self.timer.daemon = True
        self.timer.start()

    def connect(
        self, address: tuple[str, int], timeout: float, source: Any = None, allow_private: bool | None = None
    ) -> socket.socket:
        """As `socket.create_connection`, to the address that was judged: a name may lead elsewhere the next time."""
        host, port = address
        allowed = self.allow_private if allow_private is None else allow_private
        found = dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        public = [ip for ip in found if allowed or is_public(ip)]
        if not public:
            raise _private(host)
        error: OSError = OSError(f"no address of {host}")
        for ip in public:
            self.check()
            try:
                connection = socket.create_connection((ip, port), timeout, source)
            except OSError as failed:
                error = failed
                continue
            with self.lock:
                self._close()
                self.handle = connection.dup()  # a connection by TLS takes the other one over
            return connection
        raise error

    def check(self, error: Exception | None = None) -> None:
        if self.expired:
            raise TimeoutError(f"not whole after {self.deadline:g} seconds") from error

    def end(self) -> None:
        self.timer.cancel()
        with self.lock:
            self._close()

    def _expire(self) -> None:
        self.expired = True
        with self.lock, suppress(OSError):
            if self.handle is not None:
                self.handle.shutdown(socket.SHUT_RDWR)

    def _close(self) -> None:
        if self.handle is not None:
            self.handle.close()
            self.handle = None


class _Handler(urllib.request.AbstractHTTPHandler):
    def __init__(self, watch: _Watch):
        super().__init__()
        self.watch = watch

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self._open(http.client.HTTPConnection, request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self._open(partial(http.client.HTTPSConnection, context=_tls()), request)

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_

    def _open(self, make: Callable[..., Any], request: urllib.request.Request) -> http.client.HTTPResponse:
        connect = self.watch.connect
        if request.has_proxy() or getattr(request, "_tunnel_host", None):  # the proxy may stand in this network
            host = urllib.parse.urlsplit(request.full_url).hostname or ""
            if not self.watch.allow_private and _is_private_name(host):
                raise _private(host)
            connect = partial(connect, allow_private=True)

        def connection(host: str, **kwargs: Any) -> http.client.HTTPConnection:
            made = make(host, **kwargs)
            made._create_connection = connect
            return made

        return self.do_open(connection, request)


def _is_private_name(host: str) -> bool:
    """Whether a name is this machine's own, or a private address written as one."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not is_public(host)
    except ValueError:
        return False


def _private(host: str) -> RefusedError:
    return RefusedError(
        f"{host} is an address of this machine or its network: --allow-private-addresses fetches from it"
    )


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()  # reads the certificates: once
