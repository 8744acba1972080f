"""Rows of a CSV that have fewer cells than its header: counted as a manifest is read, and said in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from repli.tasks.sources.manifest.columns import shorten_column
from repli.tasks.sources.manifest.records import Record

MAX_LISTED = 5
"""The most lines, and the most columns, that are named."""


@dataclass(slots=True)
class ShortRows:
    """The short rows of one reading of a manifest: how many, the first of their lines, and the columns they lack.

    Example:
        >>> found = ShortRows()
        >>> _ = list(found.counted([Record(number=3, values={"id": "a"}, missing=("name", "image"))]))
        >>> found.explained("items.csv")
        ["items.csv: 1 row has fewer cells than the first line (line 3), and nothing for 'name' (1), 'image' (1)"]
    """

    count: int = 0
    _first_lines: list[int] = field(default_factory=list)
    _columns: Counter[str] = field(default_factory=Counter)

    def counted(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield the records, and count the short ones among them."""
        for record in records:
            if record.missing:
                self.count += 1
                self._columns.update(record.missing)
                if len(self._first_lines) < MAX_LISTED:
                    self._first_lines.append(record.number)
            yield record

    def explained(self, shown: str) -> list[str]:
        """Return a line that says which rows are short and what they lack; none where no row is."""
        if not self.count:
            return []
        rows = "1 row has" if self.count == 1 else f"{self.count:,} rows have"
        lines = ", ".join(map(str, self._first_lines))
        lines = f"line{'' if self.count == 1 else 's'} {lines}{', …' if self.count > MAX_LISTED else ''}"
        columns = ", ".join(
            f"{shorten_column(name)!r} ({rows:,})" for name, rows in self._columns.most_common(MAX_LISTED)
        )
        others = f", and {len(self._columns) - MAX_LISTED} more columns" if len(self._columns) > MAX_LISTED else ""
        return [f"{shown}: {rows} fewer cells than the first line ({lines}), and nothing for {columns}{others}"]
