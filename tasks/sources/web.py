"""http and https under limits: a deadline on the whole, a size, few redirects, and no way into a private network.

A manifest is written by others, so a URI in it must not reach what only this machine can reach. Every connection,
on every redirect, goes to an address that was checked a moment before: the name is resolved once, here, and the
connection is made to that very address, so that a name that changes its mind (DNS rebinding) gains nothing.
Proxies from the environment are ignored, because a proxy would resolve the name again.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any

import httpcore
import httpx
import stamina

from repli.tasks.fallback import InvalidItem, ItemError
from repli.tasks.settings import FetchLimits
from repli.tasks.sources.locate import WEB_SCHEMES, Content, Place, check_size, hide_password, too_slow

if TYPE_CHECKING:
    import ssl

Resolve = Callable[[str, int], Sequence[str]]

TRIES = 3
MAX_WAIT_S = 2.0

_HEADERS = {"User-Agent": "repli", "Accept": "*/*", "Accept-Encoding": "gzip, deflate"}
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: how a network without IPv4 writes an IPv4 address
_ASK_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# One known coding at most: of a chain of them a few kilobytes could become terabytes.
_CODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})
_LENGTH = re.compile(r"[0-9]{1,18}")


class TransientError(ItemError):
    """The origin did not answer as it should; asking again in a moment may help."""


class Web:
    """Reads http and https URIs. Threads may share one; connections are kept until `close`.

    Args:
        limits: what one URI may cost, and whether private addresses are allowed.
        resolve: the addresses of a host and port, best first; raises OSError where there are none.
        backend: what connects to an address. Tests hand in their own.
    """

    def __init__(
        self, limits: FetchLimits, *, resolve: Resolve | None = None, backend: httpcore.NetworkBackend | None = None
    ) -> None:
        self._limits = limits
        self._pool = httpcore.ConnectionPool(
            ssl_context=_ssl_context(),
            max_connections=None,
            network_backend=_CheckedBackend(limits, resolve or addresses_of, backend or httpcore.SyncBackend()),
        )

    def close(self) -> None:
        """Close the connections that are kept."""
        self._pool.close()

    def read(self, place: Place) -> Content:
        """The body behind the `place`, its media type as the server declares it.

        Trouble that may pass (no connection, 429, 5xx) is tried again a few times, with jitter, before the deadline.

        Raises:
            ItemError: it could not be had; the message names the URI without its password, and the next step.
        """
        deadline = time.monotonic() + self._limits.time_limit_s
        tries = stamina.retry_context(
            on=TransientError,
            attempts=TRIES,
            timeout=self._limits.time_limit_s,
            wait_initial=0.1,
            wait_max=MAX_WAIT_S,
            wait_jitter=0.2,
        )
        for attempt in tries:
            with attempt:
                return self._read_once(place, deadline)
        raise AssertionError("the loop above returns or raises")  # pragma: no cover

    def _read_once(self, place: Place, deadline: float) -> Content:
        shown = place.declared
        try:
            return self._follow(shown, httpx.URL(place.address), deadline)
        except httpx.InvalidURL as error:
            raise InvalidItem(f"{shown} is not a URL ({error}); correct it in the manifest") from error
        except httpcore.TimeoutException as error:
            raise too_slow(shown, self._limits) from error
        except httpx.DecodingError as error:
            raise ItemError(f"{shown} sent a body that cannot be decoded ({error}); tell its owner") from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise TransientError(f"{shown} did not answer ({_reason(error)}); see that the server is there") from error

    def _follow(self, declared: str, url: httpx.URL, deadline: float) -> Content:
        seen: list[httpx.URL] = []
        while len(seen) <= self._limits.max_redirects:
            name = f"{declared} (redirected to {hide_password(str(url))})" if seen else declared
            if url.scheme not in WEB_SCHEMES or not url.host or not 0 < (url.port or 80) < 65536:
                raise (ItemError if seen else InvalidItem)(f"{name}: that is no web address; correct it")
            if url in seen:
                raise ItemError(f"{name}: it redirects in a circle; correct it in the manifest or tell its owner")
            seen.append(url)
            try:
                answer = self._ask(url, deadline)
            except ItemError as error:
                raise type(error)(f"{name}: {error}") from error
            if isinstance(answer, Content):
                return answer
            url = answer
        raise ItemError(f"{declared}: it redirects more than {self._limits.max_redirects} times; write where it ends")

    def _ask(self, url: httpx.URL, deadline: float) -> Content | httpx.URL:
        """What `url` answers: a body, or where it redirects to."""
        request = httpx.Request("GET", url, headers=_HEADERS)
        if url.userinfo:
            request = next(httpx.BasicAuth(url.username, url.password).auth_flow(request))
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        until = {"timeout": dict.fromkeys(("connect", "read", "write"), deadline)}  # points in time: see _Stream
        with self._pool.stream("GET", target, headers=request.headers.raw, extensions=until) as answer:
            response = httpx.Response(answer.status, headers=answer.headers, content=answer.iter_stream())
            if response.status_code in _REDIRECTS and "location" in response.headers:
                return _redirected(url, response.headers["location"])
            if response.status_code in _ASK_AGAIN:
                raise TransientError(f"it answered {_status(response)}; try later")
            if not response.is_success:
                raise ItemError(f"it answered {_status(response)}; correct it in the manifest or see who may read it")
            if response.headers.get("content-encoding", "").strip().lower() not in _CODINGS:
                raise ItemError("it is sent in a coding that was not asked for; tell its owner")
            length = response.headers.get("content-length", "")
            check_size(int(length) if _LENGTH.fullmatch(length) else 0, "the body", self._limits)
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                check_size(len(body), "the body", self._limits)
            media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            return Content(bytes(body), media_type or None)


def addresses_of(host: str, port: int) -> Sequence[str]:
    """The addresses that the system's resolver knows, in its order."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: str) -> bool:
    """Whether anybody on the internet can reach `address`, so that reaching it from here gives nothing away.

    IPv4 addresses inside IPv6 ones (mapped, NAT64) count as what they are. Raises ValueError for no address.
    """
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address):
        inner = parsed.ipv4_mapped or (IPv4Address(int(parsed) & 0xFFFFFFFF) if parsed in _NAT64 else None)
        if inner is None:
            return parsed in _GLOBAL_UNICAST and parsed.is_global and not (parsed.sixtofour or parsed.teredo)
        parsed = inner
    return parsed.is_global and not parsed.is_multicast


class _CheckedBackend(httpcore.NetworkBackend):
    """Connects to addresses that were checked, and to nothing else."""

    def __init__(self, limits: FetchLimits, resolve: Resolve, backend: httpcore.NetworkBackend) -> None:
        self._limits = limits
        self._resolve = resolve
        self._backend = backend

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = self._allowed(host, port)
        for position, address in enumerate(addresses, start=1):
            left = _left(timeout) / (len(addresses) - position + 1)
            try:
                return _Stream(self._backend.connect_tcp(address, port, left, local_address, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if position == len(addresses):
                    raise
        raise AssertionError("there is an address, or _allowed raised")  # pragma: no cover

    def _allowed(self, host: str, port: int) -> Sequence[str]:
        try:
            addresses = self._resolve(host, port)
        except socket.gaierror as error:
            kind = TransientError if error.errno == socket.EAI_AGAIN else ItemError
            raise kind(f"the name {host} has no address ({error.strerror}); correct it or see the network") from error
        except OSError as error:
            raise ItemError(f"the name {host} cannot be resolved ({error}); see the network") from error
        except UnicodeError as error:
            raise InvalidItem(f"there can be no name {host} ({error}); correct it") from error
        if self._limits.allow_private_addresses:
            return addresses
        public = [address for address in addresses if is_public(address)]
        if not public:
            raise InvalidItem(
                f"{host} is a private address ({', '.join(addresses)}), which a manifest may not reach; "
                "set REPLI_ALLOW_PRIVATE_ADDRESSES=1 if you trust this manifest"
            )
        return public


class _Stream(httpcore.NetworkStream):
    """A connection whose time-outs are points in time, so that no peer can stretch a request byte by byte.

    httpcore hands the time-outs of a request through to here; `Web` puts the request's deadline in their place.
    """

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


@lru_cache(maxsize=1)
def _ssl_context() -> ssl.SSLContext:
    """The certificates that are trusted: reading them takes longer than most fetches."""
    return httpx.create_ssl_context()


def _left(deadline: float | None) -> float:
    left = (deadline or 0.0) - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the deadline is over")
    return left


def _redirected(url: httpx.URL, location: str) -> httpx.URL:
    try:
        return url.join(location)
    except httpx.InvalidURL as error:
        raise ItemError(f"it redirects to what is no URL ({error}); tell its owner") from error


def _status(response: httpx.Response) -> str:
    return f"{response.status_code} {response.reason_phrase}".strip()


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
