"""What flows: items, and the value that each stage leaves for one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from repli.tasks.fallback import StepResult

if TYPE_CHECKING:  # `status` and `show` do without it
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One catalogue record. `folder` is the manifest's: relative paths start there.

    `repaired` names the columns in which characters that are no text (null bytes, lone surrogates) were replaced, or
    numbers that are none (NaN, infinities) left out.
    `problem` says why the record cannot be an item (an unreadable line, an unusable id); such a record is kept
    under the name of its line, so that it is seen, and fails in `validate`.
    """

    id: str
    name: Any = None
    document: Any = None
    image: Any = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""
    repaired: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of all that the stages see: results are kept while it stays the same."""
        record = json.dumps(asdict(self), sort_keys=True, ensure_ascii=True, default=str)
        return hashlib.sha256(record.encode()).hexdigest()


def fingerprint(value: Any) -> str | None:
    """A hash of a stage's input, the same in every process; None for what JSON and dataclasses cannot say."""
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=_plain)
    except (TypeError, ValueError):
        return None
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in fields(value)}
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} has no form of its own")


def clean_text(text: str) -> str:
    """`text` with what no database takes as text (null bytes, lone surrogates) replaced by U+FFFD."""
    return _NO_TEXT.sub("\ufffd", text)


_NO_TEXT = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemState:
    """An item and what its stages have left so far, by stage; a stage that is absent is pending."""

    item: Item
    results: Mapping[str, StepResult]

    def value(self, stage: str) -> Any:
        """What `stage` left, None where it left nothing."""
        result = self.results.get(stage)
        return result.value if result else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """Fetched bytes: where from, and the blob that holds them. `source` is `origin`, `cached` or `inline`."""

    uri: str
    sha256: str
    size: int
    media_type: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Assets:
    """What `fetch` leaves. None where the item declares no such asset, or it could not be had (the error says)."""

    document: Asset | None
    image: Asset | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A soft expectation that an item does not meet."""

    expectation: str
    column: str
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """What `validate` leaves."""

    violations: tuple[Violation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """What `extract_text` leaves."""

    text: str

    @property
    def characters(self) -> int:
        return len(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """One label of a ranking. `label_index` is the ImageNet-1k class, or None in another vocabulary."""

    label: str
    label_index: int | None
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """What `classify_image` leaves. The label is withheld (`unknown`) below the model's own threshold."""

    label: str | None
    label_index: int | None
    unknown: bool
    top: tuple[Guess, ...]
    vocabulary: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embedding:
    """What `embed_text` leaves: a unit vector, float32 of shape (dimensions,), and the space it lives in."""

    space: str
    vector: npt.NDArray[np.float32]

    @property
    def dimensions(self) -> int:
        return int(self.vector.shape[0])

    def similarity(self, other: Embedding) -> float:
        """The cosine of the two vectors, in [-1, 1].

        Raises:
            ValueError: they live in different spaces, where no number says how near they are.
        """
        if self.space != other.space:
            raise ValueError(f"a vector of {self.space} cannot be compared with one of {other.space}")
        return float(self.vector @ other.vector)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What `store` leaves: the item's quality."""

    quality: float


def as_json(value: Any) -> Any:
    """The outside form of a stage's value. The vector of an embedding lies beside it, in the store."""
    match value:
        case Text():
            return {"text": value.text, "characters": value.characters}
        case Embedding():
            return {"space": value.space, "dimensions": value.dimensions}
        case _ if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        case _:  # a project's own stage may answer plain JSON
            return value
