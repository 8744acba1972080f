"""Servers on loopback that answer as a Prefect server does not, or not at all: real sockets."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from repli.flows.server.ports import LOOPBACK, find_free_port

DRIPS_FOR_S = 20

Answer = Callable[[BaseHTTPRequestHandler], None]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: the client has gone, or speaks another protocol."""


@contextmanager
def http_server(answer: Answer, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that answers each request with `answer`; the address of its API."""

    class Handler(BaseHTTPRequestHandler):
        timeout = DRIPS_FOR_S

        def do_GET(self) -> None:
            with suppress(OSError):  # the client does not wait for it
                answer(self)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with _Server((LOOPBACK, 0), Handler) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http{'s' if context else ''}://{LOOPBACK}:{server.server_port}/api"
        server.shutdown()
        thread.join()


@contextmanager
def mute_server() -> Iterator[str]:
    """A port that accepts every connection, and never says a word."""
    with socket.create_server((LOOPBACK, 0), backlog=16) as server:  # the kernel accepts them
        yield f"http://{LOOPBACK}:{server.getsockname()[1]}/api"


def nobody() -> str:
    """An address at which nothing listens."""
    return f"http://{LOOPBACK}:{find_free_port()}/api"


def says(status: int, body: str = "", **headers: str) -> Answer:
    """The same answer to each request."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        _send(handler, status, body, headers)

    return answer


def is_prefect(version: str) -> Answer:
    """What a Prefect server of this version answers to the questions of `check_server`; it takes events too."""
    documents: dict[str, Any] = {"/api/flows/filter": [], "/api/admin/version": version}

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/api/events":
            _send(handler, 204, "", {})
        elif (document := documents.get(handler.path)) is not None:
            _send(handler, 200, json.dumps(document), {})
        else:
            _send(handler, 404, "", {})

    return answer


def in_turn(*answers: Answer) -> Answer:
    """One answer after the other; the last one from then on."""
    left = list(answers)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


def drips(handler: BaseHTTPRequestHandler) -> None:
    """An answer that comes letter by letter, each in time."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(DRIPS_FOR_S * 10):
        handler.wfile.write(b" ")
        time.sleep(0.1)


def own_certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """What a TLS server needs, with a certificate that nobody has signed, and the certificate's file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file, key_file = folder / "certificate.pem", folder / "key.pem"
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key_file)
    return context, file


def _send(handler: BaseHTTPRequestHandler, status: int, body: str, headers: dict[str, str]) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body.encode())
