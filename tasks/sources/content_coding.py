"""Decode the body of an HTTP answer by its `Content-Encoding`, and notice a body that ends before its end."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

CODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})
"""At most one coding: a chain of codings can expand a few kilobytes to terabytes."""

_PIECE_BYTES = 1024 * 1024
_GZIP, _ZLIB, _RAW = 31, 15, -15  # the window of zlib, and what is around the data
_GZIP_MAGIC = b"\x1f\x8b"


class DamagedBody(Exception):
    """The body is not in its coding, or a part of it is missing."""


def decoded(chunks: Iterable[bytes], coding: str) -> Iterator[bytes]:
    """Yield the content of a body, in pieces of at most 1 MiB where it is compressed.

    A gzip body may have several members. What follows the last one is ignored, as browsers do.

    Args:
        coding: One of `CODINGS`.

    Raises:
        DamagedBody: It cannot be decoded, or ends too early.

    Example:
        >>> import gzip
        >>> b"".join(decoded([gzip.compress(b"a red boat")], "gzip"))
        b'a red boat'
    """
    if coding in {"", "identity"}:
        yield from chunks
        return
    window = _ZLIB if coding == "deflate" else _GZIP
    decoder = None
    for chunk in chunks:
        has_more = bool(chunk)
        while has_more:
            if decoder is None or decoder.eof:
                if decoder and not (window == _GZIP and _GZIP_MAGIC.startswith(chunk[:2])):
                    return
                decoder = zlib.decompressobj(_RAW if window == _ZLIB and not _is_zlib(chunk) else window)
            try:
                piece = decoder.decompress(chunk, _PIECE_BYTES)
            except zlib.error as error:
                raise DamagedBody(f"it is no {coding} ({error})") from error
            if piece:
                yield piece
            chunk = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            has_more = bool(chunk) or (len(piece) == _PIECE_BYTES and not decoder.eof)
    if decoder and not decoder.eof:
        raise DamagedBody(f"it stops before the end of its {coding}")


def _is_zlib(start: bytes) -> bool:
    """Return whether a deflate body begins with zlib's header, as the standard wants; some servers leave it out."""
    return start[0] & 15 == 8 and (len(start) < 2 or int.from_bytes(start[:2], "big") % 31 == 0)
