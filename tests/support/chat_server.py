"""The far end of an example: a server with an OpenAI-compatible API on a port of its own, up or down."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LOOPBACK = "127.0.0.1"
KEY = "sk-of-the-test"
MODEL = "model-of-the-test"

Reply = str | int
"""The content of the model's message, or the status of a refusal."""


class ChatServer:
    """A language model that answers each question with `reply(question)`.

    It keeps its port while it is down: connections are refused then, and no other process gets them. A request without
    the key, or for another model, is refused with 401 or 404, as the real API does.
    """

    def __init__(self, reply: Callable[[str], Reply]) -> None:
        self.reply = reply
        self.questions: list[str] = []
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind((LOOPBACK, 0))  # bound and never listening
        self._server: ThreadingHTTPServer | None = None

    @property
    def variables(self) -> dict[str, str]:
        """Return the environment of a process that uses the server."""
        url = f"http://{LOOPBACK}:{self._reserved.getsockname()[1]}/v1"
        return {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": KEY, "OPENAI_MODEL": MODEL}

    def start(self) -> None:
        handler = type("Handler", (_Handler,), {"chat": self})
        self._server = _Server(self._reserved.getsockname(), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Refuse all connections from now on."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def close(self) -> None:
        self.stop()
        self._reserved.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_port = True


class _Handler(BaseHTTPRequestHandler):
    chat: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions" or body["model"] != MODEL:
            return self._send(404, {"error": {"message": f"no {self.path} with {body['model']}"}})
        if self.headers["Authorization"] != f"Bearer {KEY}":
            return self._send(401, {"error": {"message": "Incorrect API key provided"}})
        question = body["messages"][-1]["content"]
        self.chat.questions.append(question)
        reply = self.chat.reply(question)
        if isinstance(reply, int):
            return self._send(reply, {"error": {"message": "not now"}})
        message = {"role": "assistant", "content": reply}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return self._send(200, {"object": "chat.completion", "model": MODEL, "choices": choices})

    def _send(self, status: int, document: Any) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""
