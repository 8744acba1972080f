"""Request embeddings of an OpenAI-compatible API, as vLLM, TEI, Infinity, Ollama and most vendors have it.

A text is never shortened. What the API answers is checked before it counts: as many vectors as texts, all of one
length, finite and not zero. The key is in no message, whatever the API says.

Source: OpenAI, "Create embeddings", https://platform.openai.com/docs/api-reference/embeddings/create.
"""

from __future__ import annotations

import json
import re
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import httpcore
import httpx

from repli.tasks.fallback import ItemError, RungError, TimedOut, Unavailable
from repli.tasks.fallback.errors import BadAnswer
from repli.tasks.items import clean_text
from repli.tasks.runtime.time_limit import TimeLimiter
from repli.tasks.settings import MIB, TEXT_MODEL, TEXT_MODEL_KEY, TEXT_MODEL_TIME_LIMIT_S, TextApi
from repli.tasks.sources.deadline import DeadlineStream, remaining_s, ssl_context
from repli.tasks.sources.web import TransientError, may_pass, retry_after_s

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_ATTEMPTS = 3
FIRST_WAIT_S = 0.2
"""Seconds from the first try to the second, where the API does not say how long to wait. They double."""
MAX_ANSWER_BYTES = 64 * MIB
MAX_SHOWN_CHARACTERS = 200

_REFUSED_TEXT = frozenset({400, 413, 422})
_INTERNAL = frozenset({424, 500})
"""Statuses of a model that failed, which one of the texts may have caused. TEI answers 424."""
_TOO_LONG = re.compile(
    r"\b(inputs?|prompt|texts?|tokens?|context|sequence)\b.*\b(too (large|long|big|many)|exceeds?|maximum)\b",
    re.IGNORECASE,
)
"""How servers on llama.cpp say with status 500 that a text is too long."""


class TextRefused(ItemError):
    """The API refuses one of the texts of a request, such as one with more tokens than its model reads."""


class InternalError(TransientError):
    """The model behind the API failed, which may pass, or be because of one of the texts of the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to one request.

    Args:
        vectors: a unit vector for each text, float32 of shape (dimensions,); None where its numbers are none that can
            be used. At least one is a vector.
        dimensions: the length of each vector.
        tokens: the tokens that the API has counted; None where it does not say.
    """

    vectors: Sequence[npt.NDArray[np.float32] | None]
    dimensions: int
    tokens: int | None


class EmbeddingsApi:
    """The embeddings of one API. Threads may share it; connections stay open. Use `connect`, which keeps one of each.

    Args:
        backend: opens connections. Tests pass their own.

    Example:
        >>> connect(TextApi.parse("http://127.0.0.1:11434/v1#all-minilm")).embed(["a red boat"]).dimensions
        384
    """

    def __init__(self, api: TextApi, *, backend: httpcore.NetworkBackend | None = None) -> None:
        self._api = api
        try:
            self._url = httpx.URL(f"{api.url}/embeddings")
        except httpx.InvalidURL as error:
            raise Unavailable(f"{api.url} is no web address ({error}); correct {TEXT_MODEL}") from None
        if not 0 < (self._url.port or 80) < 65536:
            raise Unavailable(f"{api.url} has a port that no host has; correct {TEXT_MODEL}")
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context(),
            max_connections=None,
            network_backend=_DeadlineBackend(backend or httpcore.SyncBackend()),
        )
        weakref.finalize(self, self._pool.close)

    def embed(self, texts: Sequence[str], *, may_try_again: Callable[[], bool] = lambda: True) -> Answer:
        """Return the vectors of some texts, with one request.

        A transient failure (no connection, 429, 5xx) is tried again, up to `MAX_ATTEMPTS` requests within the time
        limit, after the time that the API asks for.

        Args:
            may_try_again: asked before each further try.

        Raises:
            TextRefused: the API refuses one of the texts.
            TransientError: the API failed, which may pass; `InternalError` where a text may have been the cause.
            Unavailable: the API refuses the key, does not know the model, or is at another address.
            TimedOut: there was no answer within the time limit.
            BadAnswer: the answer is none that can be used.
        """
        deadline = time.monotonic() + self._api.time_limit_s
        body = json.dumps({"model": self._api.model, "input": [clean_text(text) for text in texts]}).encode()
        for attempt in range(MAX_ATTEMPTS):
            try:
                return self._checked(self._post(body, deadline), len(texts))
            except TransientError as error:
                wait_s = error.retry_after_s or max(error.pause_s, FIRST_WAIT_S * 2**attempt)
                is_last = attempt == MAX_ATTEMPTS - 1 or time.monotonic() + wait_s >= deadline
                if is_last or not may_try_again():
                    raise
            time.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")  # pragma: no cover

    def _post(self, body: bytes, deadline: float) -> tuple[httpx.Response, bytes]:
        """Send one request, and return the answer with its whole body."""
        url = self._url
        headers = {"User-Agent": "repli", "Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._api.key:
            headers["Authorization"] = f"Bearer {self._api.key}"
        request = httpx.Request("POST", url, headers=headers, content=body)
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        # Points in time: see `DeadlineStream`.
        timeouts = {"timeout": dict.fromkeys(("connect", "read", "write"), deadline)}
        answered = bytearray()
        try:
            with self._pool.stream(
                "POST", target, headers=request.headers.raw, content=body, extensions=timeouts
            ) as response:
                for chunk in response.iter_stream():
                    answered += chunk
                    if len(answered) > MAX_ANSWER_BYTES:
                        raise BadAnswer(f"{self._named} answered more than {MAX_ANSWER_BYTES // MIB} MiB")
        except httpcore.TimeoutException as error:
            raise TimedOut(
                f"{self._named} did not answer within {self._api.time_limit_s:g} s; try later, or raise "
                f"{TEXT_MODEL_TIME_LIMIT_S}"
            ) from error
        except UnicodeError as error:  # a name that no host has
            raise Unavailable(f"{self._api.url} is no web address ({error}); correct {TEXT_MODEL}") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            why = self._shown(str(error)) or type(error).__name__
            raise TransientError(f"{self._named} did not answer ({why}); check that it is up") from error
        return httpx.Response(response.status, headers=response.headers), bytes(answered)

    def _checked(self, answered: tuple[httpx.Response, bytes], texts: int) -> Answer:
        """Return the vectors of an answer, or raise what it means."""
        response, body = answered
        if response.status_code != 200:
            raise self._error(response, body)
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise BadAnswer(f"{self._named} answered 200 with what is no JSON; check {TEXT_MODEL}") from None
        try:
            vectors = _vectors(document, texts)
        except ValueError as error:
            said = self._shown(_message(body))
            raise BadAnswer(f"{self._named} answered {error}{f' ({said})' if said else ''}") from None
        dimensions = next(len(vector) for vector in vectors if vector is not None)
        return Answer(vectors=vectors, dimensions=dimensions, tokens=_tokens(document))

    def _error(self, response: httpx.Response, body: bytes) -> RungError:
        status = response.status_code
        why = self._shown(_message(body)) or httpx.codes.get_reason_phrase(status)
        said = f"{self._named} answered {status} ({why})"
        if status in _REFUSED_TEXT or (status in _INTERNAL and _TOO_LONG.search(why)):
            return TextRefused(said)
        if status in _INTERNAL or may_pass(status):
            asked_s = retry_after_s(response.headers)
            kind = InternalError if status in _INTERNAL and not asked_s else TransientError
            return kind(f"{said}; try later", retry_after_s=asked_s).pausing(status)
        if status in (401, 403):
            return Unavailable(f"{said}; set {TEXT_MODEL_KEY} to a key that it takes")
        if response.has_redirect_location:
            where = self._shown(response.headers["location"])
            return Unavailable(f"{self._named} redirects to {where}; write that address in {TEXT_MODEL}")
        return Unavailable(f"{said}; check the address and the model in {TEXT_MODEL}")

    @property
    def _named(self) -> str:
        return f"{self._api.url} ({self._api.model})"

    def _shown(self, said: str) -> str:
        """Return what the API said as it may be shown: on one line, shortened, and without the key."""
        hidden = said.replace(self._api.key, "***") if self._api.key else said
        line = " ".join(clean_text(hidden).split())
        return line if len(line) <= MAX_SHOWN_CHARACTERS else f"{line[:MAX_SHOWN_CHARACTERS]}…"


@lru_cache(maxsize=4)
def connect(api: TextApi) -> EmbeddingsApi:
    """Return the embeddings of an API; the same object for the same API, so that its connections are used again."""
    return EmbeddingsApi(api)


class _DeadlineBackend(httpcore.NetworkBackend):
    """Connects with points in time as time-outs, which also cut off the system's resolver of names."""

    def __init__(self, backend: httpcore.NetworkBackend) -> None:
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
        limit_s = remaining_s(timeout)
        connect = partial(self._backend.connect_tcp, host, port, limit_s, local_address, socket_options)
        return DeadlineStream(self._within(connect, limit_s, f"a connection to {host}:{port}"))


def _vectors(document: Any, texts: int) -> list[npt.NDArray[np.float32] | None]:
    """Return the unit vectors of an answer, in the order of the texts. Raises ValueError where there is none."""
    import numpy as np

    entries = document.get("data") if isinstance(document, dict) else None
    if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
        raise ValueError("JSON without a list `data`")
    if len(entries) != texts:
        raise ValueError(f"{len(entries)} vectors for {texts} texts")
    indexes = [entry.get("index") for entry in entries]
    order = [position if index is None else index for position, index in enumerate(indexes)]
    if not all(isinstance(index, int) for index in order) or sorted(order) != list(range(texts)):
        raise ValueError("vectors whose `index` is not that of a text each")
    listed = [entry.get("embedding") for _, entry in sorted(zip(order, entries, strict=True), key=lambda pair: pair[0])]
    if not all(isinstance(vector, list) and vector and not any(one is True for one in vector) for vector in listed):
        raise ValueError("vectors that are no lists of numbers")
    if len(lengths := {len(vector) for vector in listed}) > 1:
        raise ValueError(f"vectors of {min(lengths)} and of {max(lengths)} numbers")
    try:
        vectors = np.array(listed, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        raise ValueError("vectors that are no lists of numbers") from None
    if vectors.ndim != 2:
        raise ValueError("vectors that are no lists of numbers")
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    is_usable = np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)
    if not is_usable.any():
        raise ValueError("vectors that are zero, infinite or not a number")
    units = np.divide(vectors, norms, where=is_usable[:, None], out=np.zeros_like(vectors)).astype(np.float32)
    return [unit if usable else None for unit, usable in zip(units, is_usable, strict=True)]


def _tokens(document: Any) -> int | None:
    """Return the tokens that the answer counts; None where it does not say."""
    usage = document.get("usage")
    counted = (usage.get("total_tokens") or usage.get("prompt_tokens")) if isinstance(usage, dict) else None
    return counted if isinstance(counted, int) and 0 <= counted < 2**40 else None


def _message(body: bytes) -> str:
    """Return the error message in the body of an answer: OpenAI's, TEI's or FastAPI's, else the text itself."""
    text = body[:10_000].decode("utf-8", "replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return "" if text.lstrip().startswith("<") else text
    if not isinstance(document, dict):
        return ""
    error = document.get("error", document.get("message", document.get("detail")))
    said = error.get("message", error) if isinstance(error, dict) else error
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False) if said else ""
