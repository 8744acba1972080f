"""Requests to the Prefect server that `PREFECT_API_URL` names.

A failure is one line with the address, the reason and the next step. Prefect's own client sends the requests, so that
its settings count: keys, certificates, headers, proxies.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from repli.tasks.fallback import RepliError, TimedOut, UsageError
from repli.tasks.runtime.time_limit import TimeLimiter
from repli.tasks.sources.locate import hide_password

if TYPE_CHECKING:
    import httpx
    from prefect.client.orchestration import SyncPrefectClient

    from repli.tasks.storage.breakers import Move

ANSWER_LIMIT_S = 10.0
EVENT_LIMIT_S = 5.0
CHECK_ADDRESS = "check that it runs, and correct PREFECT_API_URL or unset it"
CHECK_SERVE = "restart `repli serve`"

_BUSY = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE})
_NO_ACCESS = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_NO_API = "so it is no Prefect API, whose address mostly ends in /api; correct PREFECT_API_URL"
_WEB_ADDRESS = re.compile(r"https?://[^\s/?#]+(/\S*)?")
_ERRNO = re.compile(r"^\[Errno -?\d+\] ")

R = TypeVar("R")


def check_server(remedy: str = CHECK_ADDRESS) -> None:
    """Check that the server answers as a Prefect API, and that its version goes with this one.

    Args:
        remedy: What to do if there is no answer.

    Raises:
        UsageError: `PREFECT_API_URL` is not a web address.
        RepliError: The server cannot be used.
    """

    def ask(client: SyncPrefectClient) -> None:
        client.read_flows(limit=1)  # needs the API and access to it, unlike `/health`
        client.raise_for_api_version_mismatch()

    _request(ask, ANSWER_LIMIT_S, remedy)


def send_breaker_moves(moves: Sequence[Move], remedy: str = CHECK_ADDRESS) -> None:
    """Send the events of several moves. They are sent when this returns.

    Prefect's event queue would send them in the background, and keep the process for two minutes if it cannot.

    Args:
        moves: The moves, in their order.
        remedy: What to do if there is no answer.

    Raises:
        UsageError: `PREFECT_API_URL` is not a web address.
        RepliError: The server did not accept them.
    """
    from prefect.events.schemas.events import Event, Resource

    from repli.tasks.reporting.events import BREAKER_EVENTS, breaker_payload

    events = [
        Event(
            event=BREAKER_EVENTS[move.new],
            resource=Resource(
                {
                    "prefect.resource.id": f"repli.breaker.{move.key.name}",
                    "prefect.resource.name": str(move.key),
                    "repli.breaker.key": move.key.place,
                }
            ),
            payload=breaker_payload(move),
        ).model_dump(mode="json")
        for move in moves
    ]
    _request(lambda client: client.request("POST", "/events", json=events), EVENT_LIMIT_S, remedy)


@contextmanager
def server_errors() -> Iterator[None]:
    """Raise `RepliError` if Prefect fails in the block because its server does not answer."""
    try:
        yield
    except Exception as error:
        if (problem := lost_server(error)) is None:
            raise
        remedy = "finished stages are kept; check the server, then run the same command again"
        raise RepliError(f"the Prefect server at {_shown_url()} stopped answering ({problem}); {remedy}") from error


def _request(ask: Callable[[SyncPrefectClient], R], limit_s: float, remedy: str) -> R:
    """Call `ask` with a client, again while the server is busy, and return its result.

    Raises:
        UsageError: `PREFECT_API_URL` is not a web address.
        RepliError: There was no usable answer within the limit.
    """
    url = _checked_url()
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    answers: list[httpx.Response] = []
    hooks = {"event_hooks": {"response": [answers.append]}}

    def ask_until_answered() -> R:
        while True:
            try:
                with get_client(sync_client=True, httpx_settings=hooks) as client:
                    return ask(client)
            except httpx.HTTPStatusError as error:  # after a pause of Prefect's client
                if error.response.status_code not in _BUSY:
                    raise

    settings = {PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}
    try:
        with temporary_settings(settings):
            return TimeLimiter()(ask_until_answered, limit_s, "the request")
    except TimedOut:
        is_busy = bool(answers) and answers[-1].is_error
        problem = _status_problem(answers[-1], remedy) if is_busy else f"did not answer within {limit_s:g} s; {remedy}"
    except (httpx.HTTPError, RuntimeError, ValueError, OSError) as error:
        problem = _problem(error, url, remedy)
    raise RepliError(f"the Prefect server at {_shown_url()} {problem}") from None


def _checked_url() -> str:
    """Return `PREFECT_API_URL`. Raises `UsageError` where it is not a web address."""
    import httpx

    url = os.environ.get("PREFECT_API_URL", "")
    try:
        _ = urlsplit(url).port, httpx.URL(url)  # both raise, each for errors of its own
        is_valid = _WEB_ADDRESS.fullmatch(url)
    except (ValueError, httpx.InvalidURL):
        is_valid = None
    if not is_valid:
        wanted = "an http or https address, such as http://127.0.0.1:4200/api"
        raise UsageError(f"PREFECT_API_URL={_shown_url()[:200]!r} is not {wanted}; correct it or unset it")
    return url


def _shown_url() -> str:
    return hide_password(os.environ.get("PREFECT_API_URL", ""))


def _problem(error: Exception, url: str, remedy: str) -> str:
    """Return what is wrong with the server, and what to do. Raises an error that is not about the server."""
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        return _status_problem(error.response, remedy)
    if isinstance(error, httpx.TransportError):
        return _transport_problem(error, url, remedy)
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):  # of the check of its version
        return _problem(error.__cause__, url, remedy)
    if isinstance(error, RuntimeError) and "incompatible versions" in str(error):
        return f"cannot be used: {error} Install the same major version of Prefect on both sides"
    if isinstance(error, ValueError):  # neither JSON nor what was asked for
        return f"answered something else than was asked for, {_NO_API}"
    if isinstance(error, OSError):
        return f"cannot be asked ({error.strerror or error}); check PREFECT_API_SSL_CERT_FILE"
    raise error


def _transport_problem(error: httpx.TransportError, url: str, remedy: str) -> str:
    import httpx

    reason = _reason(error)
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return f"has a certificate that is not trusted ({reason}); name its authority in PREFECT_API_SSL_CERT_FILE"
    if "[SSL" in reason:
        return f"did not answer over https ({reason}); if it serves http, correct PREFECT_API_URL"
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError) and url.startswith("http:"):
        return f"did not answer over http ({reason}); if it serves https, correct PREFECT_API_URL; else {remedy}"
    return f"did not answer ({reason}); {remedy}"


def _status_problem(response: httpx.Response, remedy: str) -> str:
    """Return what an answer that reports an error means, and what to do."""
    status = f"{response.status_code} {response.reason_phrase}".strip()
    if response.history:
        return f"redirects to {hide_password(str(response.url))} ({status}); correct PREFECT_API_URL"
    if response.status_code in _NO_ACCESS:
        return f"refused access ({status}); set PREFECT_API_AUTH_STRING or PREFECT_API_KEY"
    if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR or response.status_code in _BUSY:
        return f"answered {status}; see its log, or try later"
    return f"answered {status}, {_NO_API}"


def lost_server(error: BaseException | None) -> str | None:
    """Return why the server did not answer; None where the error has another reason."""
    import httpx

    if isinstance(error, httpx.TransportError):
        return _reason(error)
    if isinstance(error, httpx.HTTPStatusError):
        response = error.response
        is_lost = response.status_code in _BUSY | _NO_ACCESS or response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR
        return f"{response.status_code} {response.reason_phrase}".strip() if is_lost else None
    return lost_server(error.__cause__) if isinstance(error, RuntimeError) else None


def _reason(error: Exception) -> str:
    """Return the message of an error without its number; its kind where it has no message."""
    return _ERRNO.sub("", str(error)) or type(error).__name__
