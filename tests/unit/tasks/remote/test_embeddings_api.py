"""One request to an API, against a real server: what it answers, and what each failure means."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpcore
import numpy as np
import pytest

from repli.tasks.fallback import RungError, TimedOut, Unavailable
from repli.tasks.fallback.errors import BadAnswer
from repli.tasks.models import text_embedder
from repli.tasks.remote.embeddings_api import MAX_ATTEMPTS, EmbeddingsApi, TextRefused
from repli.tasks.settings import TextApi
from repli.tasks.sources.web import TransientError
from tests.support import embeddings_server
from tests.support.embeddings_server import (
    KEY,
    MINILM,
    NAME,
    EmbeddingsServer,
    Said,
    hangs,
    refusal,
    said,
    serving,
)
from tests.support.odd_servers import drips, http_server

TEXTS = ["a red boat", "the brass lamp of the dog", "東京 – ça va?"]


@pytest.fixture(scope="module")
def started() -> Iterator[EmbeddingsServer]:
    with serving() as server:
        embeddings_server.embedded(["loads the model"])
        yield server


@pytest.fixture
def server(started: EmbeddingsServer) -> EmbeddingsServer:
    """The server without a fault, which has had no request."""
    started.reset()
    return started


@pytest.fixture
def api(server: EmbeddingsServer) -> TextApi:
    return replace(TextApi.parse(server.source), key=KEY, time_limit_s=60)


def test_the_vectors_are_those_of_the_model(api: TextApi) -> None:
    """Of unit length, whatever the API makes of it, and in the order of the texts, with the tokens that it counted."""
    answer = EmbeddingsApi(api).embed(TEXTS)
    wanted = text_embedder.load(MINILM).embed(TEXTS)
    np.testing.assert_allclose(np.array(answer.vectors), wanted, atol=1e-5)
    assert all(vector is not None and vector.dtype == np.float32 for vector in answer.vectors)
    assert (answer.dimensions, answer.tokens) == (384, 21)


def test_answers_are_put_in_the_order_of_the_texts(api: TextApi, server: EmbeddingsServer) -> None:
    """By their `index`, as the API is free to answer in another."""

    def reversed_answer(texts: list[str]) -> Said:
        document = embeddings_server.embedded(texts).document
        return Said({**document, "data": document["data"][::-1]})

    straight = EmbeddingsApi(api).embed(TEXTS).vectors
    server.fault = reversed_answer
    np.testing.assert_array_equal(np.array(EmbeddingsApi(api).embed(TEXTS).vectors), np.array(straight))


def test_vectors_without_an_index_are_in_the_order_of_the_texts(api: TextApi, server: EmbeddingsServer) -> None:
    """Where it is left out, or null."""
    for entries in ([{"embedding": [1.0, 0.0]}, {"embedding": [0.0, 1.0]}], [vector_of(1, 0, index=None)] * 2):
        server.fault = lambda texts, entries=entries: said(entries)
        first, _ = EmbeddingsApi(api).embed(["a", "b"]).vectors
        assert first is not None
        assert first.tolist() == [1, 0]


def test_an_api_that_counts_no_tokens_is_not_taken_for_free(api: TextApi, server: EmbeddingsServer) -> None:
    """That it does not say is something else than none."""
    server.fault = lambda texts: Said({"data": [{"index": 0, "embedding": [1.0, 2.0]}]})
    assert EmbeddingsApi(api).embed(["a"]).tokens is None


def vector_of(*numbers: Any, index: Any = 0) -> dict[str, Any]:
    return {"index": index, "embedding": list(numbers)}


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (said([]), "0 vectors for 2 texts"),
        (said([vector_of(1, 0)]), "1 vectors for 2 texts"),
        (said([vector_of(1, 0, index=position) for position in range(3)]), "3 vectors for 2 texts"),
        (said([vector_of(1, 0), vector_of(1, 0)]), "whose `index` is not that of a text each"),
        (said([vector_of(1, 0), vector_of(1, 0, index="1")]), "whose `index` is not that of a text each"),
        (said([vector_of(1, 0), vector_of(1, 0, 0, index=1)]), "vectors of 2 and of 3 numbers"),
        (said([vector_of(NAN, 0), vector_of(NAN, 1, index=1)]), "zero, infinite or not a number"),
        (said([vector_of(INF, 0), vector_of(-INF, 1, index=1)]), "zero, infinite or not a number"),
        (said([vector_of(0, 0), vector_of(0.0, 0, index=1)]), "zero, infinite or not a number"),
        (said([vector_of(), vector_of(index=1)]), "no lists of numbers"),
        (said([vector_of("a", "b"), vector_of("c", "d", index=1)]), "no lists of numbers"),
        (said([vector_of([1], [2]), vector_of([1], [2], index=1)]), "no lists of numbers"),
        (said([vector_of(None, 1), vector_of(None, 1, index=1)]), "zero, infinite or not a number"),
        (said([vector_of(10**400, 1), vector_of(1, 1, index=1)]), "no lists of numbers"),
        (said([{"index": 0, "embedding": "AACAPw=="}, {"index": 1, "embedding": "AACAPw=="}]), "no lists of numbers"),
        (said([vector_of(True, True), vector_of(True, False, index=1)]), "no lists of numbers"),
        (Said({"error": {"message": "the model is loading"}}), "without a list `data` .the model is loading."),
        (Said({"error": "the model is loading"}), "without a list `data` .the model is loading."),
        (said([1, 2]), "JSON without a list `data`"),
        (Said([]), "JSON without a list `data`"),
        (Said({"data": {"embedding": [1]}}), "JSON without a list `data`"),
        (Said("<html>Welcome</html>"), "answered 200 with what is no JSON"),
        (Said(""), "answered 200 with what is no JSON"),
        (Said("[" * 100_000), "answered 200 with what is no JSON"),
    ],
)
def test_nonsense_is_no_answer(api: TextApi, server: EmbeddingsServer, answer: Said, why: str) -> None:
    """It is not asked again, and says what is wrong."""
    server.fault = lambda texts: answer
    with pytest.raises(BadAnswer, match=why):
        EmbeddingsApi(api).embed(["a", "b"])
    assert len(server.requests) == 1


def test_one_vector_that_is_none_leaves_the_others(api: TextApi, server: EmbeddingsServer) -> None:
    """A model in half precision overflows on single texts."""
    server.fault = lambda texts: said([vector_of(NAN, 0), vector_of(0, 2, index=1), vector_of(0, 0, index=2)])
    first, second, third = EmbeddingsApi(api).embed(["a", "b", "c"]).vectors
    assert (first, third) == (None, None)
    assert second is not None
    assert second.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("answer", "error", "why"),
    [
        (refusal(401, f"Incorrect API key provided: {KEY}."), Unavailable, r"\*\*\*.*set REPLI_TEXT_MODEL_KEY"),
        (refusal(403, "no access"), Unavailable, "set REPLI_TEXT_MODEL_KEY"),
        (refusal(404, "no such model"), Unavailable, "no such model.*check the address and the model"),
        (refusal(302, "", Location="https://elsewhere.test/v1"), Unavailable, "redirects to https://elsewhere.test/v1"),
        (refusal(400, "too many tokens"), TextRefused, "too many tokens"),
        (refusal(413, "too large"), TextRefused, "too large"),
        (Said({"detail": "bad input"}, 422), TextRefused, "bad input"),
        (Said({"message": "Input validation error"}, 413), TextRefused, "Input validation error"),
        (Said({"detail": [{"msg": "too many texts"}]}, 422), TextRefused, "too many texts"),
        (Said("<html>nginx</html>", 413), TextRefused, "413 .Request Entity Too Large"),
    ],
)
def test_a_refusal_is_not_tried_again(
    api: TextApi, server: EmbeddingsServer, answer: Said, error: type[RungError], why: str
) -> None:
    """Another try would be refused too. The key is not shown, even where the API says it."""
    server.fault = lambda texts: answer
    with pytest.raises(error, match=why) as raised:
        EmbeddingsApi(api).embed(["a"])
    assert type(raised.value) is error
    assert KEY not in str(raised.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [424, 429, 500, 502, 503, 522, 529])
def test_a_failure_that_may_pass_is_tried_again(api: TextApi, server: EmbeddingsServer, status: int) -> None:
    """One that passes costs nothing; one that stays ends after a few tries."""
    answers = [refusal(status, "busy"), refusal(status, "busy"), None]
    server.fault = lambda texts: answers.pop(0)
    assert EmbeddingsApi(api).embed(["a"]).dimensions == 384
    server.fault = lambda texts: refusal(status, "busy")
    server.requests = []
    with pytest.raises(TransientError, match=f"answered {status} .busy.; try later"):
        EmbeddingsApi(api).embed(["a"])
    assert len(server.requests) == MAX_ATTEMPTS


@pytest.mark.parametrize("asked", [{"Retry_After": "1"}, {"Retry_After": "1.2"}, {"retry_after_ms": "1100"}])
def test_the_time_that_it_asks_for_is_waited(api: TextApi, server: EmbeddingsServer, asked: dict[str, str]) -> None:
    """Where that is within the time limit; else the error says how long to leave it alone, at once."""
    answers = [refusal(429, "busy", **asked), None]
    server.fault = lambda texts: answers.pop(0)
    began = time.monotonic()
    assert EmbeddingsApi(api).embed(["a"]).dimensions == 384
    assert 1 <= time.monotonic() - began < 20
    server.fault = lambda texts: refusal(429, "busy", Retry_After="90")
    server.requests = []
    with pytest.raises(TransientError, match="answered 429") as raised:
        EmbeddingsApi(api).embed(["a"])
    assert raised.value.retry_after_s == 90
    assert len(server.requests) == 1


def test_nothing_is_tried_again_where_the_breaker_is_open(api: TextApi, server: EmbeddingsServer) -> None:
    """Other requests of the API have failed meanwhile."""
    server.fault = lambda texts: refusal(503, "down")
    with pytest.raises(TransientError):
        EmbeddingsApi(api).embed(["a"], may_try_again=lambda: False)
    assert len(server.requests) == 1


def test_a_server_that_is_down_is_told(api: TextApi, server: EmbeddingsServer) -> None:
    """A refused connection may pass."""
    server.stop()
    try:
        with pytest.raises(TransientError, match=r"did not answer \(.*refused\); check that it is up"):
            EmbeddingsApi(api).embed(["a"])
    finally:
        server.start()


@pytest.mark.parametrize("fault", ["answer", "drips", "mute"])
def test_a_server_that_hangs_is_cut_off(api: TextApi, server: EmbeddingsServer, fault: str) -> None:
    """At the limit, also where it answers letter by letter; it is not tried again."""
    asked = 0

    def counted(handler: BaseHTTPRequestHandler) -> None:
        nonlocal asked
        asked += 1
        (drips if fault == "drips" else drips_headers)(handler)

    if fault == "answer":
        server.fault = hangs(3)
        with pytest.raises(TimedOut, match="did not answer within 1 s; try later, or raise REPLI_TEXT_MODEL_TIME"):
            EmbeddingsApi(replace(api, time_limit_s=1)).embed(["a"])
        asked = len(server.requests)
    else:
        with http_server(counted) as url, pytest.raises(TimedOut):
            EmbeddingsApi(replace(api, url=url, time_limit_s=1)).embed(["a"])
    assert asked == 1


RESOLVED = threading.Event()


class Hanging(httpcore.SyncBackend):
    """Connections that hang in what knows no time limit, as the system's resolver does."""

    def connect_tcp(self, *arguments: Any, **options: Any) -> httpcore.NetworkStream:
        RESOLVED.wait(60)
        raise httpcore.ConnectError("too late")


def test_a_name_that_is_not_resolved_is_cut_off(api: TextApi) -> None:
    """At the limit too, whatever the connection hangs in."""
    began = time.monotonic()
    with pytest.raises(TimedOut, match=r"a connection to 127\.0\.0\.1:[0-9]+ was cut off"):
        EmbeddingsApi(replace(api, time_limit_s=1), backend=Hanging()).embed(["a"])
    assert time.monotonic() - began < 30
    RESOLVED.set()


def drips_headers(handler: BaseHTTPRequestHandler) -> None:
    """Headers without an end, each in time."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(100):
        handler.wfile.write(f"X-{number}: 1\r\n".encode())
        time.sleep(0.1)


def test_an_answer_without_end_is_cut_off(api: TextApi) -> None:
    """At a size that no answer has."""
    with http_server(floods) as url, pytest.raises(BadAnswer, match="answered more than 64 MiB"):
        EmbeddingsApi(replace(api, url=url)).embed(["a"])


def floods(handler: BaseHTTPRequestHandler) -> None:
    """Bytes without an end."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b"[" * 1024 * 1024)


def test_a_key_is_sent_and_never_told(api: TextApi, server: EmbeddingsServer, caplog: pytest.LogCaptureFixture) -> None:
    """It is in no log and in no error, and not in the settings as they are printed."""
    with caplog.at_level(logging.DEBUG):
        EmbeddingsApi(api).embed(["a"])
        server.key = "another"
        with pytest.raises(Unavailable) as raised:
            EmbeddingsApi(api).embed(["a"])
    assert KEY not in caplog.text + repr(raised.value) + repr(api)
    assert "Incorrect API key provided: Bearer ***" in str(raised.value)


def test_an_api_without_a_key_gets_none(api: TextApi, server: EmbeddingsServer) -> None:
    """No header is sent for an empty key."""
    server.key = None
    assert EmbeddingsApi(replace(api, key="")).embed(["a"]).dimensions == 384


@pytest.mark.parametrize("url", [f"http://{'a' * 64}.test/v1", "http://127.0.0.1:99999/v1", "http://[::1/v1"])
def test_an_address_that_is_none_is_told(url: str) -> None:
    """Whatever the libraries raise, the model is unavailable."""
    with pytest.raises(Unavailable, match="correct REPLI_TEXT_MODEL"):
        EmbeddingsApi(TextApi(url=url, model=NAME)).embed(["a"])


def test_connections_are_used_again(api: TextApi, server: EmbeddingsServer) -> None:
    """By all threads of a process; the server sees no more of them than requests at a time."""
    client = EmbeddingsApi(api)
    ports: set[int] = set()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        ports.add(handler.client_address[1])
        body = json.dumps({"data": [vector_of(1.0, 0.0)]}).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with http_server(_keeping_alive(answer)) as url:
        client = EmbeddingsApi(replace(api, url=url))
        for _ in range(5):
            threads = [threading.Thread(target=client.embed, args=(["a"],)) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert len(ports) <= 2


def _keeping_alive(answer: Callable[[BaseHTTPRequestHandler], None]) -> Callable[[BaseHTTPRequestHandler], None]:
    def keep(handler: BaseHTTPRequestHandler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.close_connection = False
        answer(handler)

    return keep
