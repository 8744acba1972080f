"""Hash the words of a text into a vector, as scikit-learn's HashingVectorizer does, without its second of imports."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

HASHED_DIMENSIONS = 1024
HASHED_SPACE = f"hashing-vectorizer:1:{HASHED_DIMENSIONS}-words-l2"
"""The space of hashed words. Two vectors in it are alike where words are the same, or share a place by chance."""

_WORD = re.compile(r"\w+")
_MASK = 0xFFFFFFFF


def hash_words(text: str, dimensions: int) -> npt.NDArray[np.float32]:
    """Return the vector of a text, float32 of shape (dimensions,) and of unit length; zeros for a text without a word.

    Each word, in lower case, adds 1 or -1 at a place. Both are of its hash: weighted by signs, words that share a place
    cancel each other out in the mean (Weinberger et al. 2009).

    Example:
        >>> float(hash_words("the red boat", 1024) @ hash_words("The boat: red!", 1024))
        1.0
    """
    vector = np.zeros(dimensions)
    for word in _WORD.findall(text.lower()):
        hashed = _murmur3(word.encode("utf-8"))
        signed = hashed - (1 << 32) if hashed >> 31 else hashed
        vector[abs(signed) % dimensions] += 1 if signed >= 0 else -1
    length = np.linalg.norm(vector)
    return (vector / length if length else vector).astype(np.float32)


def _murmur3(data: bytes) -> int:
    """Return the 32-bit MurmurHash3 of the data, unsigned, with the seed 0 (Appleby's MurmurHash3_x86_32)."""
    whole = len(data) & ~3
    hashed = 0
    for start in range(0, whole, 4):
        hashed ^= _mixed(int.from_bytes(data[start : start + 4], "little"))
        hashed = (_rotated(hashed, 13) * 5 + 0xE6546B64) & _MASK
    hashed ^= _mixed(int.from_bytes(data[whole:], "little"))
    hashed ^= len(data)
    hashed = ((hashed ^ (hashed >> 16)) * 0x85EBCA6B) & _MASK
    hashed = ((hashed ^ (hashed >> 13)) * 0xC2B2AE35) & _MASK
    return hashed ^ (hashed >> 16)


def _mixed(block: int) -> int:
    return (_rotated((block * 0xCC9E2D51) & _MASK, 15) * 0x1B873593) & _MASK


def _rotated(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _MASK
