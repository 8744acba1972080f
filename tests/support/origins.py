"""Web servers on loopback that are well, dead, busy or hang, may change, and count what they are asked."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

HANGS_FOR_S = 600.0


def small_page(path: str) -> bytes:
    """What a server says that is well."""
    return f"<html><p>This is what there is to say of {path}, and it is well.</p></html>".encode()


class Origin:
    """A server that answers by its `kind`, and counts its requests by path, its connections, and the most at once.

    Args:
        kind: `well`, `quick` (without the delay of `well`), `dead` (503), `flaky` (503 to 30 %, by chance), `hanging`,
            `busy for seconds`, `busy until a date`, or `to URL`.
        page: what it says at a path.
        delay_s: seconds that it takes for an answer while it is `well` or `flaky`.
        looks_at: called with each path that is asked for, before the answer, which may be by another kind then.
    """

    def __init__(
        self,
        kind: str,
        *,
        page: Callable[[str], bytes] = small_page,
        delay_s: float = 0.01,
        looks_at: Callable[[str], None] = lambda path: None,
    ) -> None:
        self.kind = kind
        self.paths: Counter[str] = Counter()
        self.connections = 0
        self.most_at_once = 0
        self._page = page
        self._delay_s = delay_s
        self._at_once = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._chance = Random(0)
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else the body waits for the receipt of the headers, some 40 ms

            def setup(self) -> None:
                origin.connections += 1
                super().setup()

            def do_GET(self) -> None:
                with origin._lock:
                    looks_at(self.path)
                    origin.paths[self.path] += 1
                    fails = origin._chance.random() < 0.3
                    origin._at_once += 1
                    origin.most_at_once = max(origin.most_at_once, origin._at_once)
                try:
                    with suppress(OSError):  # the client does not wait for it
                        origin._answer(self, fails)
                finally:
                    with origin._lock:
                        origin._at_once -= 1

            def log_message(self, *args: Any) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def requests(self) -> int:
        return self.paths.total()

    def become(self, kind: str) -> None:
        """Answer by another kind from now on, and count anew. What hangs is let go, without an answer."""
        with self._lock:
            self.kind = kind
            self.paths.clear()
            self._over.set()
            self._over = threading.Event()

    def close(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler, fails: bool) -> None:
        kind = self.kind
        if kind == "hanging":
            self._over.wait(HANGS_FOR_S)
            request.close_connection = True
            return
        status, headers, body = 200, {"Content-Type": "text/html"}, self._page(request.path)
        if kind == "dead" or (kind == "flaky" and fails):
            status = 503
        if kind.startswith("busy"):
            status = 429
            date = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
            headers["Retry-After"] = "7200" if kind == "busy for seconds" else date
        if kind.startswith("to "):
            status, headers["Location"] = 302, kind.removeprefix("to ") + request.path
        if kind in {"well", "flaky"}:
            time.sleep(self._delay_s)
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that was cut off has gone."""


@contextmanager
def origins(*kinds: str, delay_s: float = 0.01) -> Iterator[list[Origin]]:
    """Servers of these kinds, until the block ends."""
    with ExitStack() as stack:
        found = [Origin(kind, delay_s=delay_s) for kind in kinds]
        for origin in found:
            stack.callback(origin.close)
        yield found
