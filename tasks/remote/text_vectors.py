"""Embed the texts of a batch by an API: several requests at a time, and an answer for each text."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from repli.tasks.fallback import Declined, ItemError, RungError
from repli.tasks.fallback.errors import BadAnswer
from repli.tasks.fallback.keyed_calls import KeyedCalls
from repli.tasks.remote.embeddings_api import Answer, InternalError, TextRefused, connect
from repli.tasks.settings import TextApi

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

TEXTS_PER_REQUEST = 32
"""What TEI takes at most, unless it is told otherwise."""
CHARACTERS_PER_REQUEST = 200_000
"""OpenAI takes 300,000 tokens a request, and a character is hardly ever more than one."""
REQUESTS_AT_ONCE = 4
"""Of one batch. How many a whole fleet sends at once is the breaker's setting."""
PROBE = "a"
"""A text that every model reads."""


class _Suspected(ItemError):
    """The model failed, perhaps on one of the texts of the request: what it answers for `PROBE` decides."""


@dataclass(slots=True, kw_only=True)
class Usage:
    """What requests to an API have used.

    Args:
        requests: requests that were answered.
        texts: texts that have a vector.
        tokens: tokens, as far as the API counts them.
        uncounted: requests whose answer did not say how many tokens they took.
    """

    requests: int = 0
    texts: int = 0
    tokens: int = 0
    uncounted: int = 0

    def add(self, answer: Answer) -> None:
        """Count one answer."""
        self.requests += 1
        self.texts += sum(vector is not None for vector in answer.vectors)
        self.tokens += answer.tokens or 0
        self.uncounted += answer.tokens is None


@dataclass(slots=True)
class _Dimensions:
    """The length of the vectors of one model in one run, as this process has seen it first."""

    found: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, answer: Answer) -> None:
        """Raise `BadAnswer` where the length is another than before."""
        with self.lock:
            self.found = self.found or answer.dimensions
        if answer.dimensions != self.found:
            raise BadAnswer(
                f"the API answered vectors of {answer.dimensions} numbers, and before in this run of {self.found}; "
                "make sure that it serves one model"
            )


@lru_cache(maxsize=8)
def _dimensions_of(url: str, model: str, run_id: str) -> _Dimensions:
    return _Dimensions()


class TextVectors:
    """The vectors of the texts of one batch.

    Args:
        api: the API and its model.
        run_id: the run, in which all vectors of a process have one length; None outside of runs.
        call: goes around each request, with the API's address as its key.

    Example:
        >>> TextVectors(TextApi.parse("http://127.0.0.1:11434/v1#all-minilm")).embed(["a red boat"])
        [array([...], dtype=float32)]
    """

    def __init__(self, api: TextApi, *, run_id: str | None = None, call: KeyedCalls = KeyedCalls()) -> None:
        self.usage = Usage()
        self._api = api
        self._call = call
        self._dimensions = _dimensions_of(api.url, api.model, run_id) if run_id else _Dimensions()
        self._counting = threading.Lock()
        self._probing = threading.Lock()
        self._has_answered = False

    def embed(self, texts: Sequence[str]) -> list[npt.NDArray[np.float32] | RungError]:
        """Return a unit vector for each text, or why there is none.

        A request that is refused for one of its texts, or breaks the model, is sent again in halves, until that text is
        alone: it is `Declined` where the API refuses it, an `ItemError` where the model breaks, and the others are
        served. Where no text at all is accepted, that is the API's failure.
        """
        requests = list(_split(texts))
        if len(requests) < 2:
            return [answer for request in requests for answer in self._embed(request)]
        with ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="embeddings") as pool:
            return [answer for answers in pool.map(self._embed, requests) for answer in answers]

    def _embed(self, texts: Sequence[str], *, tries: bool = True) -> list[npt.NDArray[np.float32] | RungError]:
        if len(texts) == 1 and len(texts[0]) > CHARACTERS_PER_REQUEST:
            return [Declined(f"the text has more than {CHARACTERS_PER_REQUEST} characters, which no model reads whole")]
        try:
            answer = self._request(texts, tries=tries)
        except (TextRefused, _Suspected) as error:
            return self._divide(texts, error)
        except RungError as error:
            return [error] * len(texts)
        bad = BadAnswer(f"{self._api.model} answered a vector that is zero, infinite or not a number")
        return [bad if vector is None else vector for vector in answer.vectors]

    def _divide(
        self, texts: Sequence[str], error: TextRefused | _Suspected
    ) -> list[npt.NDArray[np.float32] | RungError]:
        """Return the answers of texts of which one is refused or breaks the model, if the API accepts any text."""
        is_refused = isinstance(error, TextRefused)
        try:
            self._check_accepts_texts(again=not is_refused)
        except RungError as why:
            return [why] * len(texts)
        if len(texts) == 1:
            return [
                Declined(f"the text is refused: {error}")
                if is_refused
                else ItemError(f"the model fails on this text: {error}")
            ]
        middle = len(texts) // 2
        parts = (texts[:middle], texts[middle:])
        return [answer for part in parts for answer in self._embed(part, tries=is_refused)]

    def _check_accepts_texts(self, *, again: bool) -> None:
        """Raise what the API says of a text that is short, unless it has answered for another one and `again` is off.

        An API that is down fails here, with one request: its breaker counts it.
        """
        with self._probing:
            if again or not self._has_answered:
                self._request([PROBE], tries=not again)

    def _request(self, texts: Sequence[str], *, tries: bool = True) -> Answer:
        """Return the answer for some texts. That the API refuses even `PROBE` is its own failure.

        Args:
            tries: whether a transient failure is tried again.

        Raises:
            TextRefused: it refuses one of the texts.
            _Suspected: the model failed, perhaps on one of the texts.
            RungError: it failed, or its breaker refuses the call.
        """
        key = self._api.url
        with self._call(key):
            try:
                answer = connect(self._api).embed(texts, may_try_again=lambda: tries and not self._call.is_refused(key))
            except TextRefused as error:
                if texts == [PROBE]:
                    raise BadAnswer(f"it refuses every text: {error}") from error
                raise
            except InternalError as error:
                if texts == [PROBE]:
                    raise
                raise _Suspected(str(error)) from error
            with self._counting:
                self.usage.add(answer)
            self._dimensions.check(answer)
        self._has_answered = True
        return answer


def space_of(api: TextApi, dimensions: int) -> str:
    """Return the name of the vector space of a model behind an API, which does not say its revision."""
    return f"{api.model}:api:{dimensions}-dimensions-l2"


def _split(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the texts in parts, each for one request."""
    part: list[str] = []
    for text in texts:
        is_full = len(part) == TEXTS_PER_REQUEST or sum(map(len, part)) + len(text) > CHARACTERS_PER_REQUEST
        if part and is_full:
            yield part
            part = []
        part.append(text)
    if part:
        yield part
