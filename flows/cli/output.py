"""Write results to stdout: pages, lines, and JSON; and notes to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def print_page(page: Any) -> None:
    """Print a Rich renderable to stdout."""
    from rich.console import Console

    Console().print(page)


def print_line(text: str) -> None:
    """Print one line to stdout at once, as it is."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_note(message: object) -> None:
    """Print one line to stderr. Line breaks and control characters become spaces."""
    line = "".join(character if character.isprintable() else " " for character in str(message))
    sys.stderr.write(f"repli: {' '.join(line.split())}\n")
    sys.stderr.flush()


def print_json(document: Any, stream: Any) -> None:
    """Write a document as indented JSON."""
    stream.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
    stream.flush()


@contextmanager
def reserved_stdout(is_reserved: bool) -> Iterator[Any]:
    """Reserve stdout for one JSON document, and yield the stream to write it to.

    Everything else that is written to file descriptor 1, by worker processes too, goes to stderr, so that the output
    can be parsed. If `is_reserved` is False, yield stdout as it is.
    """
    if not is_reserved:
        yield sys.stdout
        return
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stdout:
        os.dup2(2, 1)
        yield stdout
