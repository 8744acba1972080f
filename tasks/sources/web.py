"""Read http and https URIs under limits: a total deadline, a size, few redirects, and no access to private networks.

A manifest is untrusted input, so its URIs must not reach addresses that only this machine can reach (server-side
request forgery). Every connection, after a redirect too, goes to an address that was checked: the name is resolved
once, here, and the connection is made to that address, which defeats DNS rebinding. Proxies from the environment are
ignored, because a proxy would resolve the name again.
"""

from __future__ import annotations

import math
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Self

import httpcore
import httpx
import stamina

from repli.tasks.fallback import InvalidItem, ItemError, TimedOut, Unavailable
from repli.tasks.fallback.breaker import LONGEST_WAIT_S
from repli.tasks.fallback.errors import keys_of, with_keys
from repli.tasks.fallback.keyed_calls import KeyedCalls
from repli.tasks.runtime.limited_pool import restart_limit
from repli.tasks.runtime.time_limit import TimeLimiter
from repli.tasks.settings import FetchLimits
from repli.tasks.sources.content_coding import CODINGS, DamagedBody, decoded
from repli.tasks.sources.deadline import DeadlineStream, remaining_s, ssl_context
from repli.tasks.sources.locate import WEB_SCHEMES, Content, Place, check_size, hide_password, timeout_error

Resolve = Callable[[str, int], Sequence[str]]

MAX_ATTEMPTS = 3
MAX_WAIT_S = 2.0
"""The longest time between two tries. A server that asks for more is left alone: its breaker opens."""
MAX_DRAINED_BYTES, DRAIN_LIMIT_S = 64 * 1024, 1.0
"""What is read of the page that comes with a redirect or an error: its connection can be used again then."""
SLOT_LIMIT_S = 1500.0
"""Seconds after which a read that waits for a slot of its origin is cut off."""
GRACE_S = 2.0
"""Seconds after its deadline at which a request that has not ended by itself is cut off."""

_HEADERS = {"User-Agent": "repli", "Accept": "*/*", "Accept-Encoding": "gzip, deflate"}
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_6TO4_RELAYS = IPv4Network("192.88.99.0/24")  # RFC 7526 took it out of use; ipaddress calls it global
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: how a network without IPv4 writes an IPv4 address
_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
_WHOLE_STATUSES = frozenset({200, 201, 203})
"""The others that are no errors have no content, a part of it, or a page that says that it is not ready."""
_ASKED_TO_WAIT = {"retry-after": 1.0, "retry-after-ms": 0.001}
"""Headers, and the seconds in one of their units. OpenAI and Azure send the second, which is more exact."""
_LONGEST_ASKED_S = 1e9
_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?")
_CONTENT_LENGTH = re.compile(r"[0-9]{1,18}")


class TransientError(Unavailable):
    """A failure of the origin, not of the item, that may pass: a retry can succeed. The origin's breaker counts it.

    `pause_s` is the shortest time to the next try: servers that answer 429 mostly count requests by the second.
    """

    pause_s: float = 0.0

    def pausing(self, status: int) -> Self:
        """Note the status that the origin answered, and return the error."""
        self.pause_s = 1.0 if status == 429 else 0.0
        return self


class FurtherTries:
    """The further tries of requests that met a transient error, over all batches of a process. Thread-safe.

    One request of an origin makes them at a time, and none after an origin's last one has failed for good: however many
    requests meet an origin that is down, one of them finds out whether the error passes. If another request that was
    sent after its first error has been answered, the origin is not down.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}
        self._failed_at: dict[str, float] = {}
        self._answered: dict[str, float] = {}  # when the last request that was answered had begun

    @contextmanager
    def of(self, origin: str, deadline: float) -> Iterator[Callable[[], bool]]:
        """Yield a function that returns whether the request may be tried again, now or after others had their turn."""
        began, turn, first_error = time.monotonic(), None, math.inf

        def is_allowed() -> bool:
            nonlocal turn, first_error
            first_error = min(first_error, time.monotonic())
            if turn is None:
                with self._lock:
                    its_turn = self._turns.setdefault(origin, threading.Lock())
                if its_turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
                    turn = its_turn
            return turn is not None and origin not in self._failed_at

        try:
            yield is_allowed
            with self._lock:
                self._answered[origin] = max(began, self._answered.get(origin, began))
                if self._failed_at.get(origin, began) < began:  # an answer to an earlier request proves nothing
                    self._failed_at.pop(origin, None)
        except TransientError:
            with self._lock:
                if self._answered.get(origin, -math.inf) < first_error:
                    self._failed_at[origin] = time.monotonic()
            raise
        finally:
            if turn:
                turn.release()


_FURTHER_TRIES = FurtherTries()


class Web:
    """A reader of http and https URIs. Thread-safe; connections are kept open until `close`.

    Args:
        limits: The size, time and redirects allowed for one URI, and whether private addresses are allowed.
        call: Goes around each request, with the origin as its key.
        further_tries: Those of all readers that share it, by default of the process.
        resolve: Returns the addresses of a host and port, best first; raises OSError if there are none.
        backend: Opens connections to addresses. Tests pass their own.
    """

    def __init__(
        self,
        limits: FetchLimits,
        *,
        call: KeyedCalls = KeyedCalls(),
        further_tries: FurtherTries = _FURTHER_TRIES,
        resolve: Resolve | None = None,
        backend: httpcore.NetworkBackend | None = None,
    ) -> None:
        self._limits = limits
        self._call = call
        self._further_tries = further_tries
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context(),
            max_connections=None,
            network_backend=_CheckedBackend(limits, resolve or resolve_addresses, backend or httpcore.SyncBackend()),
        )

    def close(self) -> None:
        """Close the open connections."""
        self._pool.close()

    def origin_of(self, place: Place) -> str:
        """Return the key of the calls that read `place`."""
        return origin_of(httpx.URL(place.address))

    def read(self, place: Place) -> Content:
        """Return the body at `place`, with the media type that the server declares.

        Transient failures (no connection, 429, 5xx) are retried with jitter, or after the time that the server asks for
        if that is short, up to `MAX_ATTEMPTS` requests within the time limit, by one request of an origin at a time,
        until its breaker is open. The time that a request waits for a slot of its origin does not count.

        Raises:
            ItemError: Reading failed; the message names the URI without its password, and the next step.
            TransientError: The origin failed.
            BreakerOpen: The origin's breaker refuses the request.
        """
        shown = place.declared
        try:
            return self._follow_redirects(shown, httpx.URL(place.address))
        except httpx.InvalidURL as error:
            raise InvalidItem(f"{shown} is not a URL ({error}); correct it in the manifest") from error
        except TimedOut as error:
            raise with_keys(timeout_error(shown, self._limits), keys_of(error)) from error

    def _follow_redirects(self, declared: str, url: httpx.URL) -> Content:
        seen: list[httpx.URL] = []
        left_s = self._limits.time_limit_s
        while len(seen) <= self._limits.max_redirects:
            name = f"{declared} (redirected to {hide_password(str(url))})" if seen else declared
            if url.scheme not in WEB_SCHEMES or not url.host or not 0 < (url.port or 80) < 65536:
                raise (ItemError if seen else InvalidItem)(f"{name}: that is not a web address; correct it")
            if url in seen:
                raise ItemError(f"{name}: it redirects in a circle; correct it or report it to the site")
            seen.append(url)
            try:
                answer, seconds = self._call_origin(url, left_s)
                left_s -= seconds
            except (ItemError, TransientError) as error:
                named = type(error)(f"{name}: {error}", retry_after_s=error.retry_after_s)
                raise with_keys(named, keys_of(error)) from error
            if isinstance(answer, Content):
                return answer
            url = answer
        raise ItemError(f"{declared}: it redirects more than {self._limits.max_redirects} times; write the final URL")

    def _call_origin(self, url: httpx.URL, left_s: float) -> tuple[Content | httpx.URL, float]:
        """Return the answer to a request as a call of its origin, and the seconds that it took, tries included."""
        origin = origin_of(url)
        restart_limit(SLOT_LIMIT_S)
        with self._call(origin):
            started = time.monotonic()
            restart_limit(left_s + GRACE_S)
            return self._try(url, origin, started + left_s), time.monotonic() - started

    def _try(self, url: httpx.URL, origin: str, deadline: float) -> Content | httpx.URL:
        """Request `url`, and again after a transient error, unless other requests of its origin just failed."""
        with self._further_tries.of(origin, deadline) as is_allowed:

            def may_try_again(error: Exception) -> bool | float:
                """Return whether there is another try; the seconds to wait where the server asks for some."""
                if not isinstance(error, TransientError):
                    return False
                asked_s = error.retry_after_s or error.pause_s
                is_soon = asked_s <= MAX_WAIT_S and time.monotonic() + asked_s < deadline
                return (is_soon and is_allowed() and not self._call.is_refused(origin)) and (asked_s or True)

            tries = stamina.retry_context(
                on=may_try_again,
                attempts=MAX_ATTEMPTS,
                timeout=max(0.001, deadline - time.monotonic()),
                wait_initial=0.1,
                wait_max=MAX_WAIT_S,
                wait_jitter=0.2,
            )
            for attempt in tries:
                with attempt:
                    return self._request_once(url, deadline)
        raise AssertionError("the loop above returns or raises")  # pragma: no cover

    def _request_once(self, url: httpx.URL, deadline: float) -> Content | httpx.URL:
        try:
            return self._request(url, deadline)
        except httpcore.TimeoutException as error:
            raise TimedOut(f"{origin_of(url)} did not answer within {self._limits.time_limit_s:g} s") from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise TransientError(_no_answer(error)) from error

    def _request(self, url: httpx.URL, deadline: float) -> Content | httpx.URL:
        """Request `url` once. Return its body, or the URL that it redirects to."""
        request = httpx.Request("GET", url, headers=_HEADERS)
        if url.userinfo:
            request = next(httpx.BasicAuth(url.username, url.password).auth_flow(request))
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        # Points in time: see `DeadlineStream`.
        timeouts = {"timeout": dict.fromkeys(("connect", "read", "write"), deadline)}
        with self._pool.stream("GET", target, headers=request.headers.raw, extensions=timeouts) as answer:
            response = httpx.Response(answer.status, headers=answer.headers, content=answer.iter_stream())
            if not response.is_success:
                timeouts["timeout"]["read"] = min(deadline, time.monotonic() + DRAIN_LIMIT_S)
                _drain(response)
            if response.status_code in _REDIRECT_STATUSES and "location" in response.headers:
                return _join_location(url, response.headers["location"])
            if may_pass(response.status_code):
                asked_s = retry_after_s(response.headers)
                said = f"it answered {_status(response)}{_asked(asked_s)}; try later"
                raise TransientError(said, retry_after_s=asked_s).pausing(response.status_code)
            if not response.is_success:
                raise ItemError(f"it answered {_status(response)}; correct it or check its access rights")
            if response.status_code not in _WHOLE_STATUSES:
                raise ItemError(f"it answered {_status(response)}, which is not its whole content; try later")
            coding = response.headers.get("content-encoding", "").strip().lower()
            if coding not in CODINGS:
                raise ItemError("it is sent in a content coding that was not requested; report it to the site")
            length = response.headers.get("content-length", "")
            check_size(int(length) if _CONTENT_LENGTH.fullmatch(length) else 0, "the body", self._limits)
            body = bytearray()
            try:
                for piece in decoded(response.iter_raw(), coding):
                    body += piece
                    check_size(len(body), "the body", self._limits)
            except DamagedBody as error:
                raise ItemError(f"it sent a body that cannot be decoded: {error}; report it to the site") from error
            media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            return Content(bytes(body), media_type or None, response.charset_encoding)


def origin_of(url: httpx.URL) -> str:
    """Return the scheme, host and port of a URL, the port where it is not the scheme's own.

    Example:
        >>> origin_of(httpx.URL("https://user:secret@Shop.example:443/cat.jpg"))
        'https://shop.example'
    """
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def may_pass(status: int) -> bool:
    """Return whether a status is a failure of the server that a later request may not meet.

    501 and 505 are its answer to each request of that kind.
    """
    return status in {408, 425, 429} or (500 <= status < 600 and status not in {501, 505})


def retry_after_s(headers: httpx.Headers) -> float | None:
    """Return the seconds that ``Retry-After`` asks for, in seconds or by a date; None where it says nothing of it.

    Where it is there more than once, the longest time counts. Fractions of a second are no standard, and are sent.

    Source: RFC 9110, 10.2.3.

    Example:
        >>> retry_after_s(httpx.Headers({"Retry-After": "120"}))
        120.0
    """
    asked = [_seconds(value.strip(), unit) for name, unit in _ASKED_TO_WAIT.items() for value in headers.get_list(name)]
    return max((seconds for seconds in asked if seconds is not None), default=None)


def _seconds(value: str, unit: float) -> float | None:
    if _NUMBER.fullmatch(value):
        return min(float(value) * unit, _LONGEST_ASKED_S)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())


def _asked(asked_s: float | None) -> str:
    if not asked_s:
        return ""
    kept = f", of which {LONGEST_WAIT_S:.0f} s are kept" if asked_s > LONGEST_WAIT_S else ""
    return f", and asked to wait for {math.ceil(asked_s)} s{kept}"


def resolve_addresses(host: str, port: int) -> Sequence[str]:
    """Return the addresses of `host` from the system's resolver, in its order."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: str) -> bool:
    """Return whether `address` is globally reachable, so that a request from here exposes nothing private.

    An IPv4 address inside an IPv6 one (mapped, NAT64) is judged as the IPv4 address.

    Raises:
        ValueError: `address` is not an IP address.
    """
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address):
        inner = parsed.ipv4_mapped or (IPv4Address(int(parsed) & 0xFFFFFFFF) if parsed in _NAT64 else None)
        if inner is None:
            return parsed in _GLOBAL_UNICAST and parsed.is_global and not (parsed.sixtofour or parsed.teredo)
        parsed = inner
    return parsed.is_global and not parsed.is_multicast and parsed not in _6TO4_RELAYS


class _CheckedBackend(httpcore.NetworkBackend):
    """A network backend that connects only to checked addresses."""

    def __init__(self, limits: FetchLimits, resolve: Resolve, backend: httpcore.NetworkBackend) -> None:
        self._limits = limits
        self._resolve = resolve
        self._backend = backend
        self._within = TimeLimiter()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = self._resolve_allowed(host, port, remaining_s(timeout))
        for position, address in enumerate(addresses, start=1):
            share_s = remaining_s(timeout) / (len(addresses) - position + 1)
            try:
                return DeadlineStream(self._backend.connect_tcp(address, port, share_s, local_address, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if position == len(addresses):
                    raise
        raise AssertionError("there is an address, or _resolve_allowed raised")  # pragma: no cover

    def _resolve_allowed(self, host: str, port: int, limit_s: float) -> Sequence[str]:
        try:  # the system's resolver knows no limit
            addresses = self._within(lambda: self._resolve(host, port), limit_s, f"the resolver, asked for {host},")
        except socket.gaierror as error:  # also where this machine is off the network
            why = f"the name {host} has no address ({error.strerror}); correct it or check the network"
            raise TransientError(why) from error
        except OSError as error:
            raise TransientError(f"the name {host} cannot be resolved ({error}); check the network") from error
        except UnicodeError as error:
            raise InvalidItem(f"{host} is not a valid host name ({error}); correct it") from error
        if self._limits.allow_private_addresses:
            return addresses
        public = [address for address in addresses if is_public(address)]
        if not public:
            raise InvalidItem(
                f"{host} is a private address ({', '.join(addresses)}), which a manifest may not reach; "
                "set REPLI_ALLOW_PRIVATE_ADDRESSES=1 if you trust this manifest"
            )
        return public


def _join_location(url: httpx.URL, location: str) -> httpx.URL:
    try:
        return url.join(location)
    except httpx.InvalidURL as error:
        raise ItemError(f"it redirects to an invalid URL ({error}); report it to the site") from error


def _status(response: httpx.Response) -> str:
    return f"{response.status_code} {response.reason_phrase}".strip()


def _drain(response: httpx.Response) -> None:
    """Read a short page to its end. One that is long, slow or broken is left, and its connection is closed."""
    with suppress(httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
        size = 0
        for chunk in response.iter_raw():
            size += len(chunk)
            if size > MAX_DRAINED_BYTES:
                return


def _no_answer(error: Exception) -> str:
    if isinstance(error.__context__, ssl.SSLCertVerificationError):
        why = error.__context__.verify_message
        return f"its certificate is not to be trusted ({why}); check its host and scheme, or report it to the site"
    return f"it did not answer ({str(error) or type(error).__name__}); check that the server is up"
