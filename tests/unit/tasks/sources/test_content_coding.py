"""Bodies in a content coding: whole, in members, cut off, damaged, and bombs."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Iterator

import pytest

from repli.tasks.sources.content_coding import DamagedBody, decoded

PAGE = random.Random(7).randbytes(5000) + b"A brass lamp of the nineteenth century. " * 500
GZIP, ZLIB = gzip.compress(PAGE, mtime=0), zlib.compress(PAGE)


def raw_deflate(content: bytes) -> bytes:
    coder = zlib.compressobj(wbits=-15)
    return coder.compress(content) + coder.flush()


def parts(body: bytes, size: int) -> Iterator[bytes]:
    return (body[start : start + size] for start in range(0, len(body), size))


@pytest.mark.parametrize("size", [1, 2, 7, 100_000])
@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("", PAGE),
        ("identity", PAGE),
        ("gzip", GZIP),
        ("x-gzip", GZIP),
        ("gzip", gzip.compress(PAGE[:9000], mtime=0) + gzip.compress(PAGE[9000:], mtime=0)),
        ("gzip", GZIP + b"\0" * 20),
        ("deflate", ZLIB),
        ("deflate", raw_deflate(PAGE)),
    ],
)
def test_a_body_is_decoded_however_it_comes(coding: str, body: bytes, size: int) -> None:
    """Whole, in one part or byte by byte; a gzip body with all of its members, without what follows them."""
    assert b"".join(decoded(parts(body, size), coding)) == PAGE


@pytest.mark.parametrize(("coding", "body"), [("gzip", GZIP), ("deflate", ZLIB), ("deflate", raw_deflate(PAGE))])
def test_a_body_that_stops_too_early_is_never_taken_for_a_whole_one(coding: str, body: bytes) -> None:
    """Wherever it stops, also where only the check sum at its end is missing."""
    for length in (1, 5, 11, 100, len(body) // 2, len(body) - 1):
        with pytest.raises(DamagedBody):
            b"".join(decoded([body[:length]], coding))


@pytest.mark.parametrize("body", [PAGE, GZIP[:-8] + b"12345678", GZIP[:3000] + b"\xff" * 50 + GZIP[3050:]])
def test_a_damaged_body_is_told(body: bytes) -> None:
    """One that is no gzip, or whose check sum is another."""
    with pytest.raises(DamagedBody, match="it is no gzip"):
        b"".join(decoded([body], "gzip"))


def test_a_body_without_a_byte_is_empty() -> None:
    """Servers declare a coding of nothing, too."""
    assert b"".join(decoded([], "gzip")) == b""


@pytest.mark.parametrize("size", [2**20 - 1, 2**20, 2**20 + 1, 2**20 + 300, 3 * 2**20])
def test_a_bomb_comes_in_pieces(size: int) -> None:
    """So that the reader's limit ends it; nothing is lost where a piece ends."""
    pieces = list(decoded([gzip.compress(bytes(size), mtime=0)], "gzip"))
    assert b"".join(pieces) == bytes(size)
    assert max(map(len, pieces)) <= 2**20
