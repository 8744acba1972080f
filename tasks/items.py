"""Items, and the values that the stages compute for them. `repli.tasks.json_values` has their JSON form."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from repli.tasks.fallback import StepResult

if TYPE_CHECKING:  # `status` and `show` start faster without it
    import numpy as np
    import numpy.typing as npt

INLINE = "inline:"
"""The begin of a record's value whose bytes came with the manifest; their SHA-256 follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One catalogue record. `folder` is the manifest's folder: relative paths start there.

    `text` is inline text, never a path. `repaired` says of each column what was changed so that it could be stored:
    invalid characters (null bytes, lone surrogates) were replaced, infinite numbers removed, and of a repeated key the
    last counts.
    `inline` names the fields whose bytes the manifest itself carries: their value is `inline:SHA256`. `contents` has
    those bytes until `repli.tasks.storage.blobs.keep_contents` has stored them; they are no part of the record.
    `problem` says why the record is invalid (an unreadable line, an unusable id). Such a record gets its file and line
    as id and fails in `validate`, so that it is reported.
    """

    id: str
    name: Any = None
    document: Any = None
    image: Any = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""
    repaired: tuple[str, ...] = ()
    problem: str | None = None
    text: Any = None
    inline: tuple[str, ...] = ()
    contents: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    @property
    def record(self) -> dict[str, Any]:
        """Return the record that the store keeps, as JSON: all fields but the id and the contents."""
        record = asdict(replace(self, contents={}))
        del record["id"], record["contents"]
        return {name: value for name, value in record.items() if value or name not in _NEWER_FIELDS}

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of id and record, in hexadecimal. Stored results stay valid while it is unchanged."""
        record = json.dumps({"id": self.id, **self.record}, sort_keys=True, ensure_ascii=True, default=str)
        return hashlib.sha256(record.encode()).hexdigest()


_NEWER_FIELDS = frozenset({"text", "inline"})
"""Fields that a record has only where they are not empty, so that the fingerprints of older versions stay valid."""


def clean_text(text: str) -> str:
    """Return `text` with null bytes and lone surrogates, which databases refuse as text, replaced by U+FFFD."""
    return _NOT_TEXT.sub("\ufffd", text)


_NOT_TEXT = re.compile("[\0\ud800-\udfff]")


PLACEHOLDERS = frozenset(
    {
        "n/a",
        "#n/a",
        "na",
        "<na>",
        "nan",
        "none",
        "null",
        "<null>",
        "(null)",
        "nil",
        "undefined",
        "-",
        "--",
        "---",
        "–",
        "—",
    }
)
"""What spreadsheets and programs write into a cell that has no value, in lower case."""


def is_placeholder(value: Any) -> bool:
    """Return whether a declared document, text or image only says that there is none, such as `N/A`."""
    return isinstance(value, str) and value.strip().casefold() in PLACEHOLDERS


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemState:
    """An item and its step results so far, by stage. A stage that is absent is pending.

    `revision` is the number of the item's record: it grows when a changed record is registered.
    """

    item: Item
    results: Mapping[str, StepResult]
    revision: int | None = None

    def value(self, stage: str) -> Any:
        """Return the value of `stage`, or None if it has none."""
        result = self.results.get(stage)
        return result.value if result else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """Fetched bytes: their URI, and the blob that holds them. `source` is `origin`, `cached` or `inline`.

    `charset` is the encoding of text, by its WHATWG name; None for other bytes, and for text of which it is not known.
    """

    uri: str
    sha256: str
    size: int
    media_type: str
    charset: str | None = None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Assets:
    """The value of `fetch`. None for an asset that is not declared or could not be fetched (the error says why)."""

    document: Asset | None
    image: Asset | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A soft expectation that an item violates."""

    expectation: str
    column: str
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The value of `validate`."""

    violations: tuple[Violation, ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """The value of a stage that produces text. Search indexes it.

    Example:
        >>> Text("a red boat").characters
        10
    """

    text: str

    @property
    def characters(self) -> int:
        return len(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """One label of a ranking. `label_index` is its number in the vocabulary; None where the labels have no numbers."""

    label: str
    label_index: int | None
    confidence: float


@dataclass(frozen=True, slots=True)
class Label:
    """The value of a stage that classifies. Search indexes the label, and the dashboard shows it.

    Args:
        label: the label. A classifier that is not sure has none: it raises `Declined` with its best guess.
        label_index: its number in the vocabulary, if that has numbers.
        top: the best guesses, best first.
        vocabulary: the name of the set of labels.

    Example:
        >>> Label("billing", vocabulary="queues").label
        'billing'
    """

    label: str
    _: KW_ONLY
    label_index: int | None = None
    top: tuple[Guess, ...] = ()
    vocabulary: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """The value of a stage that embeds: a unit vector, float32 of shape (dimensions,), and the name of its space.

    Vectors of different spaces are never compared, so the name says all that makes the vector: the model, its revision
    and the preparation of its input.

    Args:
        space: the name of the vector space.
        vector: numbers, as an array or a list; kept as float32.

    Example:
        >>> Embedding("two-axes:1", np.array([0.6, 0.8])).dimensions
        2
    """

    space: str
    vector: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        import numpy as np

        object.__setattr__(self, "vector", np.asarray(self.vector, dtype=np.float32))

    @property
    def dimensions(self) -> int:
        return int(self.vector.shape[0])

    def similarity(self, other: Embedding) -> float:
        """Return the cosine of the two vectors, in [-1, 1].

        Raises:
            ValueError: The vectors are of different spaces, so their cosine has no meaning.
        """
        if self.space != other.space:
            raise ValueError(f"a vector of {self.space} cannot be compared with one of {other.space}")
        return float(self.vector @ other.vector)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The value of `store`: the item's quality, in [0, 1]."""

    quality: float


STORE = "store"
"""The name of the last stage of each pipeline, which makes the item searchable with its quality."""

ROLES: Mapping[str, type] = {"text": Text, "label": Label, "embedding": Embedding, "assets": Assets}
"""What a stage may produce, by the name that the store keeps. Storage, search and export ask for it by this name."""
