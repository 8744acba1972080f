"""Columns: which of a manifest's columns is which field of an item, and which others look meant."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from repli.tasks.fallback import UsageError
from repli.tasks.sources.manifest.options import FIELDS, ManifestOptions

REQUIRED = ("id", "name")
CONTENTS = ("document", "text", "image")
MAX_LISTED = 40
MAX_SHOWN_CHARACTERS = 60

_LOOKS_MEANT: Mapping[str, re.Pattern[str]] = {
    name: re.compile(pattern)
    for name, pattern in {
        "id": r"(.*_)?(id|ids|sku|key|uuid|guid|asin|ean|gtin|isbn|handle|code|number|no|nr|ref|reference|identifier)",
        "name": r"(.*_)?(name|title|headline|heading|subject|label|product)",
        "image": r"(.*_)?(image|img|picture|pic|photo|thumbnail|thumb|cover)s?(_(url|uri|link|path|file|src|name))?",
        "text": r"(.*_)?(text|description|desc|body|content|contents|summary|abstract|details)(_(html|text))?",
        "document": r"(.*_)?(url|uri|link|href|page|website|document|doc|html|pdf|file|path)",
    }.items()
}
"""The names, as `_words` returns them, of columns that look meant for a field. A column is suggested once, for the
first field that it fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The column of each field that the manifest has. Every other column is an attribute."""

    by_field: Mapping[str, str]

    def __post_init__(self) -> None:
        if not set(self.by_field) <= set(FIELDS):
            raise AssertionError(f"no fields: {set(self.by_field) - set(FIELDS)}")

    @property
    def has_contents(self) -> bool:
        """Return whether an item may have a document, a text or an image."""
        return any(name in self.by_field for name in CONTENTS)

    def with_later_keys(self) -> Columns:
        """Return the columns with those of a document, text or image that only a later record may have, by its name."""
        free = [name for name in CONTENTS if name not in self.by_field and name not in self.by_field.values()]
        return Columns(by_field={**self.by_field, **{name: name for name in free}})


def choose_columns(present: Sequence[str], options: ManifestOptions, shown: str) -> Columns:
    """Return the column of each field: the one that the options name, else the one of its own name.

    Case and white space around a name do not matter, but the column of the exact name goes first.

    Args:
        present: The manifest's columns.
        options: `columns` counts.
        shown: The manifest, for messages.

    Raises:
        UsageError: The options name a column that is not there, two columns fit a field, or there is none for the id
            or the name. The message lists the columns, and suggests the options to give.
    """
    by_field = {name: _named(name, column, present, shown) for name, column in options.columns.items()}
    taken = set(by_field.values())
    for name in FIELDS:
        if name not in by_field and (column := _own_column(name, present, taken, shown)) is not None:
            by_field[name] = column
    if missing := [name for name in REQUIRED if name not in by_field]:
        raise UsageError(_explain_missing(missing, by_field, present, shown))
    return Columns(by_field=by_field)


def unique_columns(header: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the columns with different names, and a line for each name that stood there more than once.

    The first of equal names counts; the others become attributes, so that nothing is lost. A column without a name
    gets one.
    """
    header = [name.strip("\ufeff \t\r\n\v\f\xa0") or f"column {number}" for number, name in enumerate(header, 1)]
    counts = Counter(header)
    seen: Counter[str] = Counter()
    columns = []
    for name in header:
        seen[name] += 1
        unique = name if seen[name] == 1 else f"{name} ({seen[name]})"
        while unique in columns or (unique != name and unique in counts):
            seen[name] += 1
            unique = f"{name} ({seen[name]})"
        columns.append(unique)
    repeated = [
        f"the column {shorten_column(name)!r} stands there {count} times: the first counts, the others are attributes"
        for name, count in counts.items()
        if count > 1
    ]
    return columns, repeated


def explain_contents(columns: Columns, present: Sequence[str], shown: str) -> list[str]:
    """Return a line where no column is a document, a text or an image, or where an image looks left out."""
    meant = _suggestions(CONTENTS, columns.by_field, present)
    if not columns.has_contents:
        wanted = f"; if these are meant, give {_as_options(meant)}" if meant else f"; its columns: {_listed(present)}"
        return [f"{shown} has neither document, text nor image, which the default pipeline reads{wanted}"]
    if "image" in meant:
        return [f"{shown} has no column 'image'; if this is meant, give {_as_options({'image': meant['image']})}"]
    return []


def _named(name: str, column: str, present: Sequence[str], shown: str) -> str:
    """Return the column that `--column` names."""
    if column in present:
        return column
    alike = [one for one in present if _plain(one) == _plain(column)]
    if len(alike) == 1:
        return alike[0]
    raise UsageError(
        f"--column {shlex.quote(f'{name}={column}')}: {shown} has no column {shorten_column(column)!r}; its columns: "
        f"{_listed(present)}"
    )


def _own_column(name: str, present: Sequence[str], taken: set[str], shown: str) -> str | None:
    """Return the column of a field's own name, None where there is none."""
    if name in present:
        return None if name in taken else name
    alike = [column for column in present if _plain(column) == name and column not in taken]
    if len(alike) > 1:
        options = " or ".join(shlex.quote(f"{name}={column}") for column in alike)
        raise UsageError(f"{shown} has {len(alike)} columns that could be {name!r}; choose one: --column {options}")
    return alike[0] if alike else None


def _explain_missing(missing: Sequence[str], by_field: Mapping[str, str], present: Sequence[str], shown: str) -> str:
    """Return which columns are missing, with the options to give."""
    wanted = " and ".join(f"no column {name!r}" for name in missing)
    lines = [f"{shown} has {wanted}; its columns: {_listed(present)}"]
    has_contents = any(name in by_field for name in CONTENTS)
    meant = _suggestions([*missing, *(() if has_contents else CONTENTS)], by_field, present)
    if set(missing) <= set(meant):
        lines.append(f"if these are meant, give {_as_options(meant)}")
    else:
        other = [name for name in missing if name not in meant]
        meant = {**meant, **dict.fromkeys(other, "COLUMN")}
        lines.append(f"add {'it' if len(other) == 1 else 'them'}, or give {_as_options(meant)}")
    return "; ".join(lines)


def _suggestions(wanted: Sequence[str], by_field: Mapping[str, str], present: Sequence[str]) -> dict[str, str]:
    """Return a column that looks meant for each wanted field that has none."""
    free = [column for column in present if column not in by_field.values()]
    meant: dict[str, str] = {}
    for name in _LOOKS_MEANT:
        if name not in by_field:
            fitting = [column for column in free if _LOOKS_MEANT[name].fullmatch(_words(column))]
            if fitting:
                free.remove(best := min(fitting, key=lambda column: len(_words(column))))
                meant[name] = best
    return {name: meant[name] for name in FIELDS if name in meant and name in wanted}


def _plain(column: str) -> str:
    return column.strip("\ufeff \t\r\n\v\f\xa0").casefold()


def _words(column: str) -> str:
    """Return a column's name in lower case, its words joined by `_`: `imageURL` and `Image-Url` are `image_url`."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", column)
    return re.sub(r"[\W_]+", "_", apart).strip("_").casefold()


def _as_options(meant: Mapping[str, str]) -> str:
    return " ".join(f"--column {shlex.quote(f'{name}={column}')}" for name, column in meant.items())


def _listed(present: Sequence[str]) -> str:
    names = ", ".join(shorten_column(column) for column in present[:MAX_LISTED])
    return f"{names}, and {len(present) - MAX_LISTED} more" if len(present) > MAX_LISTED else names or "none"


def shorten_column(column: str) -> str:
    """Return the name of a column, cut off where it is too long for a message."""
    return column if len(column) <= MAX_SHOWN_CHARACTERS else column[: MAX_SHOWN_CHARACTERS - 1] + "…"
