"""What is said of a Prefect server that cannot be used: real sockets, Prefect's own client."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import httpx
import prefect
import pytest
from prefect.settings import PREFECT_API_SSL_CERT_FILE, temporary_settings

from repli.flows.server import prefect_requests
from repli.flows.server.prefect_requests import CHECK_SERVE, check_server, send_breaker_moves, server_errors
from repli.tasks.fallback import Position, RepliError, UsageError
from repli.tasks.fallback.breaker import Cause
from repli.tasks.storage.breakers import Key, Move
from tests.support.odd_servers import (
    drips,
    http_server,
    in_turn,
    is_prefect,
    mute_server,
    nobody,
    own_certificate,
    says,
)

IS_PREFECT = is_prefect(prefect.__version__)
PAGE = "<!doctype html><title>Welcome</title>"
ELSEWHERE = "http://127.0.0.1:1/api"


def problem(monkeypatch: pytest.MonkeyPatch, url: str) -> str:
    """What `check_server` says of an address that cannot be used. It names the address, and is one line."""
    monkeypatch.setenv("PREFECT_API_URL", url)
    started = time.monotonic()
    with pytest.raises(RepliError) as raised:
        check_server()
    assert time.monotonic() - started < 2 * prefect_requests.ANSWER_LIMIT_S
    assert not isinstance(raised.value, UsageError)
    said = str(raised.value)
    assert said.startswith(f"the Prefect server at {url} ")
    assert "\n" not in said
    return said.removeprefix(f"the Prefect server at {url} ")


def move() -> Move:
    """A breaker that was forced open."""
    return Move(
        key=Key("classify_image.gpu", ""),
        number=1,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        old=Position.CLOSED,
        new=Position.FORCED_OPEN,
        cause=Cause.FORCED_OPEN,
        why="",
    )


@pytest.mark.parametrize(
    ("server", "told"),
    [
        (nullcontext(nobody()), "did not answer (Connection refused); check that it runs, and correct PREFECT_API_URL"),
        (nullcontext("http://no-such-host.invalid/api"), "did not answer "),
        (http_server(says(404)), "answered 404 Not Found, so it is no Prefect API, whose address mostly ends in /api"),
        (http_server(says(200, PAGE)), "answered something else than was asked for, so it is no Prefect API"),
        (http_server(says(200, "[]")), "answered something else than was asked for, so it is no Prefect API"),
        (http_server(says(401)), "refused access (401 Unauthorized); set PREFECT_API_AUTH_STRING or PREFECT_API_KEY"),
        (http_server(is_prefect("2.20.0")), "cannot be used: Found incompatible versions: client: 3."),
    ],
    ids=["refused", "host", "404", "page", "list", "401", "version"],
)
def test_a_server_that_cannot_be_used_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, server: AbstractContextManager[str], told: str
) -> None:
    """With its address, the reason, and what to do."""
    with server as url:
        assert problem(monkeypatch, url).startswith(told)


@pytest.mark.parametrize(
    ("server", "told"),
    [
        (mute_server(), "did not answer within 1.5 s; check that it runs, and correct PREFECT_API_URL or unset it"),
        (http_server(drips), "did not answer within 1.5 s; check that it runs"),
        (http_server(says(503)), "answered 503 Service Unavailable; see its log, or try later"),
        (http_server(says(503, Retry_After="60")), "answered 503 Service Unavailable; see its log, or try later"),
    ],
    ids=["mute", "drips", "503", "retry-after"],
)
def test_nobody_waits_longer_than_the_limit(
    monkeypatch: pytest.MonkeyPatch, server: AbstractContextManager[str], told: str
) -> None:
    """Whatever the server does in the meantime, and however long it asks to wait."""
    monkeypatch.setattr(prefect_requests, "ANSWER_LIMIT_S", 1.5)
    with server as url:
        assert problem(monkeypatch, url).startswith(told)


def test_http_and_https_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each asked of a server of the other kind; and a certificate that nobody has signed."""
    context, certificate = own_certificate(tmp_path)
    with http_server(IS_PREFECT) as url:
        said = problem(monkeypatch, url.replace("http:", "https:"))
        assert said.startswith("did not answer over https ([SSL")
        assert "if it serves http, correct PREFECT_API_URL" in said
    with http_server(IS_PREFECT, context) as url:
        said = problem(monkeypatch, url.replace("https:", "http:"))
        assert said.startswith("did not answer over http (")
        assert "if it serves https, correct PREFECT_API_URL" in said
        url = url.replace("127.0.0.1", "localhost")
        said = problem(monkeypatch, url)
        assert said.startswith("has a certificate that is not trusted ([SSL: CERTIFICATE_VERIFY_FAILED]")
        assert said.endswith("; name its authority in PREFECT_API_SSL_CERT_FILE")
        with temporary_settings({PREFECT_API_SSL_CERT_FILE: str(certificate)}):
            check_server()  # Prefect's settings count
        with temporary_settings({PREFECT_API_SSL_CERT_FILE: str(tmp_path / "nothing.pem")}):
            told = "cannot be asked (No such file or directory); check PREFECT_API_SSL_CERT_FILE"
            assert problem(monkeypatch, url) == told


def test_a_redirect_names_where_it_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that sends http to https turns the question into another one."""
    with http_server(says(405)) as other, http_server(says(301, Location=other)) as url:
        assert problem(monkeypatch, url) == f"redirects to {other} (405 Method Not Allowed); correct PREFECT_API_URL"


def test_a_server_that_is_busy_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's own server says 503 while its database is locked."""
    with http_server(in_turn(says(503), IS_PREFECT)) as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        check_server()


@pytest.mark.parametrize(
    "url", ["", "nonsense", "127.0.0.1:4200/api", "ftp://host/api", "http://", "http:///api", "http://[::1/api"]
)
def test_what_is_no_address_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """The message shows what was set, and an address that would do."""
    monkeypatch.setenv("PREFECT_API_URL", url)
    with pytest.raises(UsageError, match="is not an http or https address, such as http") as raised:
        check_server()
    assert str(raised.value).startswith(f"PREFECT_API_URL={url!r} ")


@pytest.mark.parametrize("url", ["http://host:99999/api", "http://ho st/api", "http://host:port/api"])
def test_an_address_with_a_slip_is_a_usage_error_too(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Nobody is asked for a host with a space in its name."""
    monkeypatch.setenv("PREFECT_API_URL", url)
    with pytest.raises(UsageError):
        check_server()


def test_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where nobody answers, nor where it is no address."""
    for url, error in ((nobody().replace("//", "//me:secret@"), RepliError), ("ftp://me:secret@host", UsageError)):
        monkeypatch.setenv("PREFECT_API_URL", url)
        with pytest.raises(error) as raised:
            check_server()
        assert "secret" not in str(raised.value)
        assert "://***@" in str(raised.value)


def test_a_repli_serve_that_hangs_is_told_to_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator has set no address that could be corrected."""
    monkeypatch.setenv("PREFECT_API_URL", nobody())
    with pytest.raises(RepliError, match="; restart `repli serve`"):
        check_server(CHECK_SERVE)


def test_events_are_sent_or_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's own queue would go on trying for two minutes."""
    monkeypatch.setattr(prefect_requests, "EVENT_LIMIT_S", 1.0)
    with mute_server() as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        started = time.monotonic()
        with pytest.raises(RepliError, match="did not answer within 1 s"):
            send_breaker_moves([move()])
        assert time.monotonic() - started < 60
    monkeypatch.setattr(prefect_requests, "EVENT_LIMIT_S", 10.0)
    with http_server(IS_PREFECT) as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        send_breaker_moves([move()])


@pytest.mark.parametrize("status", [401, 502])
def test_a_server_that_is_lost_in_a_run_is_told(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """As Prefect raises it: itself, or as the cause of another error."""
    monkeypatch.setenv("PREFECT_API_URL", ELSEWHERE)
    told = f"the Prefect server at {ELSEWHERE} stopped answering \\(.+\\); finished stages are kept; check the server"
    with pytest.raises(RepliError, match=told), server_errors():
        httpx.get(nobody())
    with pytest.raises(RepliError, match=told), server_errors():
        try:
            httpx.get(nobody())
        except httpx.ConnectError as error:
            raise RuntimeError("Failed to reach API") from error
    with http_server(says(status)) as url, pytest.raises(RepliError, match=told), server_errors():
        httpx.get(url).raise_for_status()


def test_other_errors_of_a_run_are_not_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that the server refuses is a fault of ours, which is reported."""
    with http_server(says(422)) as url, pytest.raises(httpx.HTTPStatusError), server_errors():
        httpx.get(url).raise_for_status()
    with pytest.raises(RuntimeError, match="another"), server_errors():
        raise RuntimeError("another")
