"""The names of the 1,000 ImageNet classes, from files in the package timm, without importing it."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

from repli.tasks.fallback import Unavailable


@lru_cache(maxsize=1)
def synonyms() -> tuple[tuple[str, ...], ...]:
    """Return the WordNet lemmas of each class, by its index, the most usual first.

    Raises:
        Unavailable: timm is not installed.
    """
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        raise Unavailable("the ImageNet labels come with timm, which is not installed; run: pip install timm")
    folder = Path(spec.origin).parent / "data" / "_info"
    lines = (folder / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    lemmas = dict(line.split("\t", 1) for line in lines if "\t" in line)
    synsets = (folder / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
    return tuple(tuple(word.strip() for word in lemmas[synset].split(",")) for synset in synsets)


@lru_cache(maxsize=1)
def labels() -> tuple[str, ...]:
    """Return the label of each class, by its index: its first lemma."""
    return tuple(words[0] for words in synonyms())
