"""Read the records of a JSONL manifest, one JSON object a line."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO

from repli.tasks.sources.manifest.csv_encoding import DAMAGED, Encoding, damage_in
from repli.tasks.sources.manifest.records import NESTING_PROBLEM, Record

SAMPLE_RECORDS = 1000
"""The records whose keys are the columns of a JSONL manifest."""


def read_jsonl(file: BinaryIO, encoding: Encoding) -> Iterator[Record]:
    """Yield the records of the lines that are not blank. A line that is no JSON has a problem."""
    with io.TextIOWrapper(file, encoding.name, errors=DAMAGED, newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _record(number, line, encoding)


def keys_of(records: Iterator[Record]) -> list[str]:
    """Return the keys of the first records, in the order in which they come."""
    found: dict[str, None] = {}
    for record in islice(records, SAMPLE_RECORDS):
        if isinstance(record.values, dict):
            found.update(dict.fromkeys(record.values))
    return list(found)


def _record(number: int, line: str, encoding: Encoding) -> Record:
    if (place := damage_in(line)) is not None:
        byte = len(line[:place].encode(encoding.name.removesuffix("-sig")))
        return Record(
            number=number, problem=f"is not {encoding} (byte {byte}); save the file as UTF-8, or give --encoding"
        )
    repeated: list[str] = []
    try:
        values = json.loads(line.rstrip(), object_pairs_hook=lambda pairs: _object(pairs, repeated))
    except RecursionError:
        return Record(number=number, problem=NESTING_PROBLEM)
    except json.JSONDecodeError as error:
        return Record(number=number, problem=f"is not JSON ({error.msg}, at character {error.pos + 1}); correct it")
    except ValueError as error:  # a number with thousands of digits
        return Record(number=number, problem=f"is not JSON ({error}); correct it")
    said = tuple(f"{key[:100]}: this key stands there twice, the last counts" for key in dict.fromkeys(repeated))
    return Record(number=number, values=values, repaired=said)


def _object(pairs: Sequence[tuple[str, Any]], repeated: list[str]) -> dict[str, Any]:
    """Return a JSON object, and add its keys that stand there more than once to `repeated`."""
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        repeated += [key for key, _ in pairs if key in seen or seen.add(key)]  # type: ignore[func-returns-value]
    return made
