"""The texts of a batch, against a real server: an answer for each, whatever happens to the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from repli.tasks.fallback import Breaker, Declined, ItemError, RungError, TimedOut
from repli.tasks.fallback.breaker import Verdict
from repli.tasks.fallback.breaker_client import NoBreaker, Permit
from repli.tasks.fallback.errors import BadAnswer, BreakerOpen
from repli.tasks.fallback.keyed_calls import KeyedCalls
from repli.tasks.models import text_embedder
from repli.tasks.remote.embeddings_api import MAX_ATTEMPTS
from repli.tasks.remote.text_vectors import CHARACTERS_PER_REQUEST, REQUESTS_AT_ONCE, TEXTS_PER_REQUEST, TextVectors
from repli.tasks.settings import TextApi
from repli.tasks.sources.web import TransientError
from tests.support import embeddings_server
from tests.support.embeddings_server import (
    KEY,
    MAX_TOKENS,
    MINILM,
    EmbeddingsServer,
    Said,
    hangs,
    refusal,
    said,
    serving,
)

TEXTS = [f"The brass lamp number {number} of the red boat" for number in range(100)]
LONG = "a boat of the sea " * MAX_TOKENS


@pytest.fixture(scope="module")
def started() -> Iterator[EmbeddingsServer]:
    with serving() as server:
        embeddings_server.embedded(["loads the model"])
        yield server


@pytest.fixture
def server(started: EmbeddingsServer) -> EmbeddingsServer:
    started.reset()
    return started


@pytest.fixture
def api(server: EmbeddingsServer) -> TextApi:
    return replace(TextApi.parse(server.source), key=KEY, time_limit_s=60)


class Counted(NoBreaker):
    """A breaker that allows every call, and keeps how each has ended."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []

    def record(self, permit: Permit, verdict: Verdict, why: str = "", *, retry_after_s: float | None = None) -> None:
        self.verdicts.append(verdict)


def counted() -> tuple[Counted, KeyedCalls]:
    client = Counted()
    calls = KeyedCalls(name="a.b", breaker=Breaker(scope="key"), breaker_of=lambda name, breaker, key="": client)
    return client, calls


def errors(answers: list[object]) -> list[str]:
    return [type(answer).__name__ for answer in answers if isinstance(answer, RungError)]


def test_a_batch_goes_in_parts_several_at_a_time(api: TextApi, server: EmbeddingsServer) -> None:
    """In no more requests than needed, in the order of the texts, and with the model's own vectors."""
    vectors = TextVectors(api)
    found = np.array(vectors.embed(TEXTS))
    np.testing.assert_allclose(found, text_embedder.load(MINILM).embed(TEXTS), atol=1e-5)
    assert sorted(map(len, server.requests)) == [4, 32, 32, 32]
    assert 1 < server.largest_at_once <= REQUESTS_AT_ONCE
    assert (vectors.usage.requests, vectors.usage.texts, vectors.usage.uncounted) == (4, 100, 0)
    assert vectors.usage.tokens == sum(len(text.split()) + 2 for text in TEXTS)


def test_long_texts_are_parted_by_their_length(api: TextApi, server: EmbeddingsServer) -> None:
    """No request has more characters than an API takes; a text that alone has more is not sent at all."""
    server.fault = lambda texts: said([{"index": place, "embedding": [1.0, 0.0]} for place in range(len(texts))])
    half = "x" * (CHARACTERS_PER_REQUEST // 2)
    answers = TextVectors(api).embed([half, half, half, half * 2 + "x", "short"])
    assert [sum(map(len, texts)) for texts in sorted(server.requests, key=len)][-1] <= CHARACTERS_PER_REQUEST
    assert [len(texts) for texts in sorted(server.requests, key=len)] == [1, 1, 2]
    assert errors(answers) == ["Declined"]
    assert isinstance(answers[3], Declined)


def test_a_text_that_is_too_long_is_declined_alone(api: TextApi, server: EmbeddingsServer) -> None:
    """It is not shortened; the others of its request have vectors, and the breaker counts no failure."""
    texts = [*TEXTS[:13], LONG, *TEXTS[13:29], LONG]
    client, calls = counted()
    answers = TextVectors(api, call=calls).embed(texts)
    assert [position for position, answer in enumerate(answers) if isinstance(answer, RungError)] == [13, 30]
    assert all(isinstance(answers[position], Declined) for position in (13, 30))
    assert f"maximum context length is {MAX_TOKENS} tokens" in str(answers[13])
    served = [answer for answer in answers if not isinstance(answer, RungError)]
    np.testing.assert_allclose(np.array(served), text_embedder.load(MINILM).embed(TEXTS[:29]), atol=1e-5)
    assert Verdict.FAILED not in client.verdicts
    assert len(server.requests) <= 2 + 2 * 2 * 5, "halves, down to one, for each of the two"


def test_a_batch_of_texts_that_are_all_too_long(api: TextApi, server: EmbeddingsServer) -> None:
    """A short text tells them from an API that refuses whatever it gets."""
    answers = TextVectors(api).embed([LONG, LONG])
    assert errors(answers) == ["Declined", "Declined"]
    assert sorted(map(len, server.requests)) == [1, 1, 1, 2]


@pytest.mark.parametrize(
    "message",
    [
        "the input length exceeds the context length",
        "input is too large to process. increase the physical batch size",
        "Requested tokens (992) exceed context window of 512",
    ],
)
def test_a_text_that_is_too_long_is_declined_alone_whatever_the_status(
    api: TextApi, server: EmbeddingsServer, message: str
) -> None:
    """Servers on llama.cpp answer 500, which would pass for a failure of the API."""
    server.fault = lambda texts: refusal(500, message) if TEXTS[7] in texts else None
    client, calls = counted()
    answers = TextVectors(api, call=calls).embed(TEXTS[:20])
    assert [position for position, answer in enumerate(answers) if isinstance(answer, RungError)] == [7]
    assert isinstance(answers[7], Declined)
    assert message in str(answers[7])
    assert Verdict.FAILED not in client.verdicts


@pytest.mark.parametrize("status", [424, 500])
def test_a_text_that_breaks_the_model_fails_alone(api: TextApi, server: EmbeddingsServer, status: int) -> None:
    """The API answers for a short text, so it is up; it may read the text later, and the breaker counts no failure."""
    server.fault = lambda texts: refusal(status, "tensor size mismatch") if TEXTS[7] in texts else None
    client, calls = counted()
    answers = TextVectors(api, call=calls).embed(TEXTS[:20])
    assert [position for position, answer in enumerate(answers) if isinstance(answer, RungError)] == [7]
    assert type(answers[7]) is ItemError
    assert "fails on this text" in str(answers[7])
    assert "tensor size mismatch" in str(answers[7])
    assert Verdict.FAILED not in client.verdicts
    halvings = 5
    assert len(server.requests) <= MAX_ATTEMPTS + 3 * halvings + 1


def test_a_model_that_fails_for_every_text_costs_one_request_more(api: TextApi, server: EmbeddingsServer) -> None:
    """Also where it dies in the midst of the batch, after other texts were answered."""
    vectors = TextVectors(api, call=(found := counted())[1])
    assert errors(vectors.embed(TEXTS[:1])) == []
    server.fault, server.requests = lambda texts: refusal(500, "out of memory"), []
    answers = vectors.embed(TEXTS[:30])
    assert errors(answers) == ["InternalError"] * 30
    assert list(map(len, server.requests)) == [30] * MAX_ATTEMPTS + [1]
    assert found[0].verdicts == [Verdict.SERVED, Verdict.INCONCLUSIVE, Verdict.FAILED]


def test_an_api_that_refuses_every_text_has_failed(api: TextApi, server: EmbeddingsServer) -> None:
    """No item is to blame for a model that embeds nothing; it is found out with one request more."""
    server.fault = lambda texts: refusal(400, "this model generates text")
    client, calls = counted()
    answers = TextVectors(api, call=calls).embed(TEXTS[:30])
    assert errors(answers) == ["BadAnswer"] * 30
    assert "it refuses every text: " in str(answers[0])
    assert len(server.requests) == 2
    assert Verdict.FAILED in client.verdicts


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(503, "down"), TransientError),
        (refusal(429, "slow down", Retry_After="600"), TransientError),
        (said([]), BadAnswer),
        (Said("nonsense"), BadAnswer),
    ],
)
def test_a_request_that_fails_costs_its_own_texts(
    api: TextApi, server: EmbeddingsServer, answer: Said, error: type[RungError]
) -> None:
    """The other requests of the batch serve theirs. The breaker counts one failure; none if one that was sent later was
    served meanwhile."""
    server.fault = lambda texts: answer if TEXTS[40] in texts else None
    client, calls = counted()
    answers = TextVectors(api, call=calls).embed(TEXTS)
    failed = [position for position, answer in enumerate(answers) if isinstance(answer, RungError)]
    assert failed == list(range(TEXTS_PER_REQUEST, 2 * TEXTS_PER_REQUEST))
    assert all(type(answers[position]) is error for position in failed)
    assert client.verdicts.count(Verdict.FAILED) <= 1
    assert client.verdicts.count(Verdict.SERVED) == 3


def test_a_server_that_hangs_costs_one_time_limit(api: TextApi, server: EmbeddingsServer) -> None:
    """The requests of a batch hang together, not one after another."""
    server.fault = hangs(3)
    client, calls = counted()
    answers = TextVectors(replace(api, time_limit_s=1), call=calls).embed(TEXTS)
    assert errors(answers) == ["TimedOut"] * 100
    assert client.verdicts == [Verdict.FAILED] * 4
    assert isinstance(answers[0], TimedOut)


def test_a_refused_call_is_none(api: TextApi, server: EmbeddingsServer) -> None:
    """While the breaker is open nothing is sent."""

    class Open(NoBreaker):
        def refusal(self) -> str | None:
            return "a.b is open"

    calls = KeyedCalls(name="a.b", breaker=Breaker(scope="key"), breaker_of=lambda name, breaker, key="": Open())
    answers = TextVectors(api, call=calls).embed(TEXTS)
    assert errors(answers) == ["BreakerOpen"] * 100
    assert isinstance(answers[0], BreakerOpen)
    assert server.requests == []


def test_vectors_of_another_length_are_refused_for_the_whole_run(api: TextApi, server: EmbeddingsServer) -> None:
    """A model that changes behind its name within a run does not split its items over two spaces."""
    first, again, other = (TextVectors(api, run_id=run_id) for run_id in ("one", "one", "two"))
    assert errors(first.embed(["a"])) == []
    server.fault = lambda texts: said([{"index": place, "embedding": [1.0, 0.0]} for place in range(len(texts))])
    [answer] = again.embed(["a"])
    assert isinstance(answer, BadAnswer)
    assert "answered vectors of 2 numbers, and before in this run of 384" in str(answer)
    assert errors(other.embed(["a"])) == [], "the next run begins anew"


def test_one_vector_that_is_none_costs_its_own_text(api: TextApi, server: EmbeddingsServer) -> None:
    """A request with at least one vector has not failed."""
    server.fault = lambda texts: said(
        [{"index": 0, "embedding": [float("nan"), 0.0]}, {"index": 1, "embedding": [0.0, 1.0]}]
    )
    client, calls = counted()
    bad, good = TextVectors(api, call=calls).embed(["a", "b"])
    assert isinstance(bad, BadAnswer)
    assert not isinstance(good, RungError)
    assert client.verdicts == [Verdict.SERVED]


def test_threads_may_embed_side_by_side(api: TextApi, server: EmbeddingsServer) -> None:
    """The connections and the length of the vectors are the process's."""
    found: dict[int, int] = {}

    def embed(number: int) -> None:
        found[number] = len(TextVectors(api, run_id="threads").embed(TEXTS[:40]))

    threads = [threading.Thread(target=embed, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: 40, 1: 40, 2: 40}
