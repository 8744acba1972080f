"""http and https under limits, against real servers on the loopback and scripted ones behind public addresses."""

from __future__ import annotations

import base64
import gzip
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpcore
import httpx
import pytest

from repli.tasks.fallback import Breaker, InvalidItem, ItemError, TimedOut
from repli.tasks.fallback.breaker import Verdict
from repli.tasks.fallback.breaker_client import NoBreaker, Permit
from repli.tasks.fallback.errors import keys_of
from repli.tasks.fallback.keyed_calls import KeyedCalls
from repli.tasks.runtime.limited_pool import LimitedPool
from repli.tasks.settings import FetchLimits
from repli.tasks.sources.locate import Content, Place, locate
from repli.tasks.sources.web import MAX_ATTEMPTS, TransientError, Web, is_public, retry_after_s
from tests.support.odd_servers import http_server, own_certificate, says
from tests.support.origins import origins

OPEN = FetchLimits(allow_private_addresses=True, time_limit_s=20)
CHECKED = FetchLimits(time_limit_s=20)
PUBLIC = "93.184.216.34"


class Site(ThreadingHTTPServer):
    """A server that counts its requests by path, and keeps their headers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Site
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.requests[self.path] += 1
        self.server.headers.append(dict(self.headers))
        match self.path:
            case "/ok":
                self.answer(200, b"<html>ok</html>", {"Content-Type": "Text/HTML; charset=utf-8", "Set-Cookie": "a=b"})
            case "/flaky" if self.server.requests[self.path] < MAX_ATTEMPTS:
                self.answer(500)
            case "/flaky":
                self.answer(200, b"at last")
            case "/down" | "/busy":
                self.answer(503 if self.path == "/down" else 429)
            case "/circle":
                self.answer(302, headers={"Location": "/circle"})
            case "/file":
                self.answer(302, headers={"Location": "file:///etc/passwd"})
            case "/ftp":
                self.answer(302, headers={"Location": "ftp://shop.test/a"})
            case "/broken":
                self.answer(302, headers={"Location": "http://[::1"})
            case "/moved":
                self.answer(301, headers={"Location": "/ok"})
            case "/endless":
                self.stream(b"x" * 65536)
            case "/drip":
                self.stream(b"x", every_s=0.05)
            case "/claim":
                self.answer(200, headers={"Content-Length": "2000"})
                self.until_closed(b"", every_s=0.05)
            case "/drip-headers":
                self.drip_headers()
            case "/long":
                self.answer(200, b"x" * 2000)
            case "/coded":
                self.answer(200, b"x", {"Content-Encoding": "gzip, gzip"})
            case "/not-gzip":
                self.answer(200, b"this is no gzip", {"Content-Encoding": "gzip"})
            case "/slow-404":
                self.answer(404, headers={"Content-Length": "1000"})
                self.until_closed(b"x", every_s=0.05)
            case "/soon" if self.server.requests[self.path] < 2:
                self.answer(429, headers={"Retry-After": "1"})
            case "/often" if self.server.requests[self.path] < 2:
                self.answer(429)
            case "/soon" | "/often":
                self.answer(200, b"now")
            case "/cut-gzip":
                self.answer(200, gzip.compress(b"A brass lamp. " * 99)[:-9], {"Content-Encoding": "gzip"})
            case "/x-gzip":
                self.answer(200, gzip.compress(b"A brass lamp."), {"Content-Encoding": "X-GZIP"})
            case path if path.startswith("/status/"):
                self.answer(int(path[8:]), b"a part of it")
            case path if path.startswith("/step"):
                self.answer(302, headers={"Location": f"/step{int(path[5:]) + 1}"})
            case _:
                self.answer(404)

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def stream(self, piece: bytes, every_s: float = 0.0) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.until_closed(b"%x\r\n%s\r\n" % (len(piece), piece), every_s)

    def drip_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        self.until_closed(b"X-More: 1\r\n", every_s=0.05)

    def until_closed(self, piece: bytes, every_s: float) -> None:
        self.close_connection = True
        try:
            while not self.server.closing.wait(every_s):
                self.wfile.write(piece)
        except OSError:
            return

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the standard library's name
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


class Scripted(httpcore.MockBackend):
    """Connects nowhere: notes the addresses asked for, and answers each connection with the next of the `answers`."""

    def __init__(self, *answers: bytes) -> None:
        super().__init__([])
        self.answers = list(answers)
        self.connected: list[str] = []

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        self.connected.append(host)
        if not self.answers:
            raise httpcore.ConnectError("refused")
        return httpcore.MockStream([self.answers.pop(0)])


class Names:
    """A resolver that gives the next of the `answers` each time."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0)


def read(uri: str, limits: FetchLimits = OPEN, **parts: Any) -> Content:
    place = locate(uri, "", limits, may_be_text=False)
    assert isinstance(place, Place)
    with closing(Web(limits, **parts)) as web:
        return web.read(place)


def noting(verdicts: list[Verdict]) -> KeyedCalls:
    """Calls whose verdicts go into the list."""

    class Client(NoBreaker):
        def record(
            self, permit: Permit, verdict: Verdict, why: str = "", *, retry_after_s: float | None = None
        ) -> None:
            verdicts.append(verdict)

    return KeyedCalls(
        name="fetch.origin", breaker=Breaker(scope="key"), breaker_of=lambda name, breaker, key="": Client()
    )


def test_a_page_comes_with_its_declared_type(site: Site) -> None:
    """The body as it is sent, and the type and encoding of its header in lower case."""
    assert read(f"{site.url}/ok") == Content(b"<html>ok</html>", "text/html", "utf-8")


def test_a_redirect_is_followed(site: Site) -> None:
    """A page that moved is read where it is now."""
    assert read(f"{site.url}/moved").data == b"<html>ok</html>"


def test_a_missing_page_is_told_at_once(site: Site) -> None:
    """404 is not tried again, and the message names the URI, the answer and what to do."""
    with pytest.raises(ItemError, match=r"/gone: it answered 404 Not Found; correct it"):
        read(f"{site.url}/gone")
    assert site.requests["/gone"] == 1


def test_an_error_that_passes_is_tried_again(site: Site) -> None:
    """Two 500s and then a page are a page."""
    assert read(f"{site.url}/flaky").data == b"at last"
    assert site.requests["/flaky"] == MAX_ATTEMPTS


@pytest.mark.parametrize("path", ["/down", "/busy"])
def test_an_error_that_stays_is_told_after_a_few_tries(site: Site, path: str) -> None:
    """503 and 429 are tried a few times, and not for ever."""
    with pytest.raises(TransientError, match="try later"):
        read(site.url + path)
    assert site.requests[path] == MAX_ATTEMPTS


def test_a_server_that_is_not_there_is_told() -> None:
    """A refused connection is tried again, and then an error that names the URI."""
    backend = Scripted()
    with pytest.raises(TransientError, match=r"http://shop\.test/a: it did not answer \(refused\)"):
        read("http://shop.test/a", CHECKED, resolve=lambda host, port: [PUBLIC], backend=backend)
    assert backend.connected == [PUBLIC] * MAX_ATTEMPTS


def test_a_redirect_in_a_circle_is_told(site: Site) -> None:
    """A page that redirects to itself is asked once."""
    with pytest.raises(ItemError, match="redirects in a circle"):
        read(f"{site.url}/circle")
    assert site.requests["/circle"] == 1


def test_redirects_are_counted(site: Site) -> None:
    """An endless way of new addresses ends at the limit."""
    with pytest.raises(ItemError, match="redirects more than 5 times"):
        read(f"{site.url}/step0")
    assert sum(site.requests.values()) == OPEN.max_redirects + 1


@pytest.mark.parametrize(("path", "place"), [("/file", "file:/+etc/passwd"), ("/ftp", "ftp://shop.test/a")])
def test_a_redirect_never_leaves_the_web(site: Site, path: str, place: str) -> None:
    """A server cannot point at a file of this machine, or at a protocol that is not checked."""
    with pytest.raises(ItemError, match=rf"redirected to {place}\): that is not a web address"):
        read(site.url + path)


def test_a_redirect_to_nonsense_is_told(site: Site) -> None:
    """A location that is no URL is an error of the item."""
    with pytest.raises(ItemError, match="redirects to an invalid URL"):
        read(f"{site.url}/broken")


def test_an_endless_body_is_cut_at_the_size_limit(site: Site) -> None:
    """A stream without end stops at the limit instead of filling the memory."""
    with pytest.raises(ItemError, match=r"/endless: the body is larger than 1000000 bytes"):
        read(f"{site.url}/endless", FetchLimits(allow_private_addresses=True, max_bytes=1_000_000))


def test_a_body_too_long_by_its_own_word_is_not_read(site: Site) -> None:
    """The declared length is enough to refuse, also where nothing follows, and one byte less is enough to accept."""
    for path in ("/long", "/claim"):
        with pytest.raises(ItemError, match="larger than 1999 bytes"):
            read(site.url + path, FetchLimits(allow_private_addresses=True, max_bytes=1999, time_limit_s=2))
    assert len(read(f"{site.url}/long", FetchLimits(allow_private_addresses=True, max_bytes=2000)).data) == 2000


@pytest.mark.parametrize("path", ["/drip", "/drip-headers"])
@pytest.mark.timeout(60)
def test_a_dripping_server_is_cut_at_the_deadline(site: Site, path: str) -> None:
    """Bytes that keep coming, in the body or in the headers, do not stretch the time limit."""
    with pytest.raises(ItemError, match=r"took longer than 0\.3 s; try later or raise REPLI_FETCH_TIME_LIMIT_S"):
        read(site.url + path, FetchLimits(allow_private_addresses=True, time_limit_s=0.3))
    assert site.requests[path] == 1


@pytest.mark.parametrize("path", ["/coded", "/not-gzip", "/cut-gzip"])
def test_a_body_in_an_unknown_coding_is_told(site: Site, path: str) -> None:
    """Neither a chain of codings, a possible bomb, nor a broken one is taken for content. No breaker counts it."""
    verdicts: list[Verdict] = []
    with pytest.raises(ItemError, match="cod"):
        read(site.url + path, call=noting(verdicts))
    assert verdicts == [Verdict.INCONCLUSIVE]


def test_a_coding_goes_by_its_old_name_too(site: Site) -> None:
    """`x-gzip` is gzip."""
    assert read(f"{site.url}/x-gzip").data == b"A brass lamp."


@pytest.mark.parametrize("status", [202, 204, 205, 206, 226])
def test_an_answer_that_is_no_whole_content_is_none(site: Site, status: int) -> None:
    """A page that says that the content is not ready, a part of it, or nothing."""
    with pytest.raises(ItemError, match=f"it answered {status} .*, which is not its whole content; try later"):
        read(f"{site.url}/status/{status}")


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(404, Verdict.INCONCLUSIVE), (501, Verdict.INCONCLUSIVE), (507, Verdict.FAILED), (521, Verdict.FAILED)],
)
def test_any_failure_of_a_server_counts_for_its_breaker(site: Site, status: int, verdict: Verdict) -> None:
    """Also those that are no standard, as of the proxies in front of a dead server."""
    verdicts: list[Verdict] = []
    with pytest.raises((ItemError, TransientError), match=f"it answered {status}"):
        read(f"{site.url}/status/{status}", call=noting(verdicts))
    assert verdicts == [verdict]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        (["0"], 0),
        ([" 120 "], 120),
        (["1.5"], 1.5),
        (["1000000000"], 1e9),
        (["9" * 400], 1e9),
        (["5", "90"], 90),
        (["5", "soon"], 5),
        (["-5"], None),
        (["soon"], None),
        (["Wed, 21 Oct 2015 07:28:00 GMT"], 0),
        (["Wed, 21 Oct 99999 07:28:00 GMT"], None),
    ],
)
def test_how_long_a_server_asks_to_wait(headers: list[str], seconds: float | None) -> None:
    """What is no time is none; of two times the longer counts."""
    assert retry_after_s(httpx.Headers([("Retry-After", value) for value in headers])) == seconds


@pytest.mark.parametrize("path", ["/soon", "/often"])
def test_a_server_that_counts_requests_by_the_second_is_waited_for(site: Site, path: str) -> None:
    """Whether it asks for a second or just says that there are too many: its breaker need not open for it."""
    verdicts: list[Verdict] = []
    started = time.monotonic()
    assert read(site.url + path, call=noting(verdicts)).data == b"now"
    assert time.monotonic() - started >= 1
    assert verdicts == [Verdict.SERVED]


def test_a_connection_is_used_again_after_an_error() -> None:
    """The page that comes with it is read, where it is short."""
    with origins("dead") as [dead], closing(Web(OPEN)) as web:
        for path in ("/a", "/b"):
            place = locate(dead.url + path, "", OPEN, may_be_text=False)
            assert isinstance(place, Place)
            with pytest.raises(TransientError):
                web.read(place)
        assert dead.requests > 2
        assert dead.connections == 1


def test_an_error_page_that_drips_is_left(site: Site) -> None:
    """The answer stands, whatever comes after it."""
    started = time.monotonic()
    with pytest.raises(ItemError, match="it answered 404 Not Found"):
        read(f"{site.url}/slow-404")
    assert time.monotonic() - started < 10


def test_milliseconds_are_read_as_well() -> None:
    """OpenAI's header."""
    assert retry_after_s(httpx.Headers({"retry-after-ms": "1500"})) == 1.5


def test_a_certificate_that_is_not_trusted_is_told(tmp_path: Path) -> None:
    """That a server is up says nothing about its certificate."""
    context, _ = own_certificate(tmp_path)
    with (
        http_server(says(200, "a page"), context) as url,
        pytest.raises(TransientError, match=r"its certificate is not to be trusted \(self-signed certificate\)"),
    ):
        read(url)


def test_a_name_without_an_address_is_a_failure_of_its_origin() -> None:
    """It may be the network's, or pass; thousands of items of it cost a few questions."""
    verdicts: list[Verdict] = []

    def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(TransientError, match=r"the name gone\.test has no address .*; correct it or check the network"):
        read("http://gone.test/a", CHECKED, resolve=unknown, call=noting(verdicts))
    assert verdicts == [Verdict.FAILED]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "0.0.0.0",
        "2130706433",
        "0x7f000001",
        "127.1",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
        "10.0.0.1",
        "[fe80::1]",
        "224.0.0.1",
    ],
)
def test_private_addresses_are_refused_however_written(host: str) -> None:
    """By default no spelling of a private address is connected to, and the message names the setting."""
    backend = Scripted(b"HTTP/1.1 200 OK\r\n\r\nsecret")
    with pytest.raises(InvalidItem, match=r"private address.*set REPLI_ALLOW_PRIVATE_ADDRESSES=1"):
        read(f"http://{host}/a", CHECKED, backend=backend)
    assert backend.connected == []


def test_a_name_of_a_private_address_is_refused() -> None:
    """What counts is where a name leads."""
    backend = Scripted(b"HTTP/1.1 200 OK\r\n\r\nsecret")
    with pytest.raises(InvalidItem, match=r"inside\.test is a private address \(192\.168\.0\.7\)"):
        read("http://inside.test/a", CHECKED, resolve=Names(["192.168.0.7"]), backend=backend)
    assert backend.connected == []


def test_of_mixed_addresses_only_the_public_are_tried() -> None:
    """A name with a private and a public address is read from the public one."""
    backend = Scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert read("http://both.test/", CHECKED, resolve=Names(["10.0.0.1", PUBLIC]), backend=backend).data == b"ok"
    assert backend.connected == [PUBLIC]


def test_a_name_that_changes_its_mind_gains_nothing() -> None:
    """The connection goes to the address that was checked: the name is not resolved a second time."""
    backend = Scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    names = Names([PUBLIC], ["127.0.0.1"])
    assert read("http://rebind.test/", CHECKED, resolve=names, backend=backend).data == b"ok"
    assert backend.connected == [PUBLIC]
    assert names.asked == ["rebind.test"]


@pytest.mark.parametrize("location", ["/again", "http://other.test/", "http://127.0.0.1/"])
def test_every_redirect_is_checked_again(location: str) -> None:
    """A public page cannot lead to a private one, be it by a new name, an address, or its own name changed."""
    moved = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
    backend = Scripted(moved, b"HTTP/1.1 200 OK\r\n\r\nsecret")
    with pytest.raises(InvalidItem, match=r"http://outside\.test/ \(redirected to .*private address"):
        read("http://outside.test/", CHECKED, resolve=Names([PUBLIC], ["127.0.0.1"]), backend=backend)
    assert backend.connected == [PUBLIC]


def test_the_host_header_keeps_the_name(site: Site) -> None:
    """The server hears the name that the manifest has, though the connection went to an address."""
    uri = f"http://shop.test:{site.server_port}/ok"
    read(uri, resolve=lambda host, port: ["127.0.0.1"])
    assert site.headers[0]["Host"] == f"shop.test:{site.server_port}"


def test_a_dead_address_leads_to_the_next(site: Site) -> None:
    """A name with several addresses is read from the first that answers."""
    uri = f"http://shop.test:{site.server_port}/ok"
    assert read(uri, resolve=lambda host, port: ["127.0.0.9", "127.0.0.1"]).data == b"<html>ok</html>"


def test_proxies_of_the_environment_are_ignored(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would resolve the name again, past the check."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert read(f"{site.url}/ok").data == b"<html>ok</html>"


def test_credentials_are_sent_and_never_told(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """The server gets user and password; messages and logs do not."""
    caplog.set_level("DEBUG")
    host = site.url.removeprefix("http://")
    with pytest.raises(ItemError) as raised:
        read(f"http://me:hush@{host}/gone")
    sent = site.headers[0]["Authorization"].removeprefix("Basic ")
    assert base64.b64decode(sent) == b"me:hush"
    assert f"http://***@{host}/gone" in str(raised.value)
    assert "hush" not in str(raised.value) + caplog.text


def test_cookies_are_not_carried_between_items(site: Site) -> None:
    """What one item's page sets, the next does not send."""
    place = locate(f"{site.url}/ok", "", OPEN, may_be_text=False)
    assert isinstance(place, Place)
    with closing(Web(OPEN)) as web:
        web.read(place)
        web.read(place)
    assert "Cookie" not in site.headers[1]


@pytest.mark.parametrize("uri", ["http://", "http:///a", "http://[::1", "http://127.0.0.1:99999/"])
def test_a_malformed_url_is_the_items_own_fault(uri: str) -> None:
    """What is no URL is told as such, and not worth another try."""
    with pytest.raises(InvalidItem, match="correct it"):
        read(uri)


def test_a_resolver_that_hangs_is_given_up_at_the_deadline() -> None:
    """The system's knows no limit of ours; the origin's breaker counts it as any other time-out."""
    hangs = threading.Event()
    verdicts: list[Verdict] = []
    limits = FetchLimits(time_limit_s=0.5)
    started = time.monotonic()
    with pytest.raises(ItemError, match=r"took longer than 0\.5 s") as caught:
        read("http://slow.test/a", limits, resolve=lambda host, port: [str(hangs.wait(60))], call=noting(verdicts))
    hangs.set()
    assert time.monotonic() - started < 10
    assert verdicts == [Verdict.FAILED]
    assert keys_of(caught.value) == ("http://slow.test",)


def test_a_connection_that_knows_no_limit_is_cut_off_soon_after_the_deadline() -> None:
    """By the pool that it is read in, whose limit begins anew with the slot of the origin."""
    hangs = threading.Event()

    class Endless(httpcore.MockStream):
        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            hangs.wait(60)
            return b""

    class Backend(httpcore.MockBackend):
        def connect_tcp(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
            return Endless([])

    limits = FetchLimits(time_limit_s=0.5, allow_private_addresses=True)
    place = locate("http://endless.test/a", "", limits, may_be_text=False)
    assert isinstance(place, Place)
    web = Web(limits, resolve=lambda host, port: [PUBLIC], backend=Backend([]))
    pool: LimitedPool[str] = LimitedPool(1)
    started = time.monotonic()
    pool.submit("a", lambda: web.read(place), limit_s=600)
    ended = pool.next_ended(wait_s=30)
    hangs.set()
    pool.close()
    assert ended
    assert isinstance(ended[1].exception(), TimedOut)
    assert time.monotonic() - started < 10


def test_a_name_too_long_for_the_resolver_is_told() -> None:
    """The resolver's odd errors are errors of the item."""
    with pytest.raises(InvalidItem, match="is not a valid host name"):
        read(f"http://{'a' * 64}.test/")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (PUBLIC, True),
        ("2606:2800:220:1::1", True),
        ("64:ff9b::5db8:d822", True),  # 93.184.216.34 through NAT64
        ("64:ff9b::7f00:1", False),
        ("::ffff:10.0.0.1", False),
        ("::7f00:1", False),
        ("2002:7f00:1::", False),
        ("fd00::1", False),
        ("ff0e::1", False),
        ("100.64.0.1", False),
        ("239.1.1.1", False),
        ("255.255.255.255", False),
        ("192.88.98.255", True),
        ("192.88.99.0", False),  # relays of 6to4, a prefix that is not globally routed any more (RFC 7526)
        ("192.88.99.255", False),
        ("64:ff9b::c058:6301", False),
        ("192.88.100.0", True),
    ],
)
def test_which_addresses_are_public(address: str, expected: bool) -> None:
    """Only what anybody on the internet can reach, also where IPv6 wraps IPv4."""
    assert is_public(address) is expected
