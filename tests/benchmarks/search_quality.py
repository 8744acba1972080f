"""How well search finds: WordNet's glosses as queries, the article of the glossed word as the one relevant item.

``python -m tests.benchmarks.search_quality`` enriches the 10,033 Wikipedia introductions, takes nouns of one sense that
have an article by their name, and looks for each by its gloss alone: by words, by vectors, and by both. Beside all
queries stand those that share no word with the title. Half of the queries, the odd ones, were looked at when the fusion
was tuned; the figures are of the other half.

Then the same after an outage: a third of the items have a vector of hashed words or none. `repli`'s search, which keeps
spaces apart and weighs by quality, is put beside one that compares all vectors with each other, as one matrix of model
vectors and hashed words of the same length would have it, and knows of no quality; it fuses by the same constants.

WordNet 3.0 is Debian's: ``apt-get install wordnet-base``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from tasks.embed_text import HASHED_SPACE, hashed_words
from tasks.models import text_embedder
from tasks.settings import ModelSettings
from tasks.storage import neighbours, search
from tasks.storage.database import Database
from tasks.storage.matrices import Matrices
from tasks.storage.schema import documents, items

NOUNS = Path("/usr/share/wordnet/data.noun")
TOP = 10
OUTAGE = {"hashed": 2 / 9, "skip": 1 / 9}
"""The shares of items whose vector was of hashed words, or none: a third together."""


@dataclass(frozen=True, slots=True)
class Gloss:
    """A query, and the one item that it describes."""

    text: str
    item_id: str
    shares_a_word: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=10_033)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--tuning", action="store_true", help="the other half of the queries")
    parser.add_argument("--keep", type=Path, help="a folder for the two stores, used again where they are there")
    arguments = parser.parse_args()
    if not NOUNS.exists():
        sys.exit(f"{NOUNS} is not there; apt-get install wordnet-base")
    folder = arguments.keep or Path(tempfile.mkdtemp())
    try:
        compare(folder, arguments.items, arguments.queries, tuning=arguments.tuning)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder)


def compare(folder: Path, total: int, count: int, *, tuning: bool) -> None:
    manifest = _catalogue(folder, total)
    healthy, outage = folder / "healthy", folder / "outage"
    if _stored(healthy) < total:
        _enrich(healthy, manifest)
    if _stored(outage) < total:
        for rung, part in _parts(manifest).items():
            _enrich(outage, part, *(["--force", f"embed_text={rung}"] if rung else []))
    queries = list(_glosses(manifest))[int(tuning) :: 2][:count]
    embedder = text_embedder.load(ModelSettings().text)
    by_meaning = embedder.embed([query.text for query in queries])
    by_hash = hashed_words([query.text for query in queries])
    apart = sum(not query.shares_a_word for query in queries)
    print(f"{len(queries)} glosses, {apart} of which share no word with the title, over {total} items\n")
    print("| | hit@1 | hit@10 | MRR@10 | no shared word: hit@1 | hit@10 | MRR@10 |\n|---|---|---|---|---|---|---|")

    def vectors(number: int) -> dict[str, neighbours.Vector]:
        return {embedder.space: by_meaning[number], HASHED_SPACE: by_hash[number]}

    for name, home in (("", healthy), ("after the outage, ", outage)):
        store = Database(f"sqlite:///{home / 'repli.db'}")
        store.migrate()

        def found(words: Sequence[str], number: int | None, store: Database = store) -> list[str]:
            query_vectors = {} if number is None else vectors(number)
            hits = search.search(store, words, query_vectors, limit=TOP, min_quality=0)
            return [hit.id for hit in hits]

        ways: dict[str, Callable[[int], list[str]]] = {
            "keyword": lambda n: found(search.words_of(queries[n].text), None),
            "vector": lambda n: found([], n),
            "hybrid": lambda n: found(search.words_of(queries[n].text), n),
        }
        if home is outage:
            mixed = _Mixed(store, embedder.space, by_meaning)
            ways["vector, spaces mixed"] = lambda n, mixed=mixed: mixed.found(n, [])  # type: ignore[misc]
            ways["hybrid, spaces mixed"] = lambda n, mixed=mixed: mixed.found(n, search.words_of(queries[n].text))  # type: ignore[misc]
        for way, look in ways.items():
            ranks = [_rank(look(number), query.item_id) for number, query in enumerate(queries)]
            hard = [rank for rank, query in zip(ranks, queries, strict=True) if not query.shares_a_word]
            print(f"| {name}{way} | {_figures(ranks)} | {_figures(hard)} |", flush=True)


def _rank(found: Sequence[str], wanted: str) -> int | None:
    return found.index(wanted) + 1 if wanted in found else None


def _figures(ranks: Sequence[int | None]) -> str:
    found = [rank for rank in ranks if rank]
    first, ten = sum(rank == 1 for rank in found), len(found)
    reciprocal = sum(1 / rank for rank in found)
    return " | ".join(f"{value / len(ranks):.3f}" for value in (first, ten, reciprocal))


class _Mixed:
    """A search that takes every vector for one of the model's: words are hashed to as many numbers."""

    def __init__(self, store: Database, space: str, queries: neighbours.Vector) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        self._store, self._queries = store, queries
        with store.read() as connection:
            columns = documents.c.number, documents.c.item_id, documents.c.name, documents.c.text, documents.c.space
            rows = connection.execute(sa.select(*columns)).all()
        hasher = HashingVectorizer(n_features=queries.shape[1], norm="l2")
        self._matrix = np.zeros((len(rows), queries.shape[1]), np.float32)
        with Matrices(store).open() as matrices:
            by_model = dict(zip(matrices[space].numbers.tolist(), matrices[space].vectors, strict=True))
            for place, row in enumerate(rows):
                if row.space == space:
                    self._matrix[place] = by_model[row.number]
                elif row.space == HASHED_SPACE:
                    self._matrix[place] = hasher.transform([f"{row.name}. {row.text}"]).toarray()[0]
        self._numbers = np.array([row.number for row in rows])
        self._ids = {row.number: row.item_id for row in rows}

    def found(self, number: int, words: Sequence[str]) -> list[str]:
        """The ids of the best, by the vector of a query, and by words too where there are any."""
        order = np.argsort(-(self._matrix @ self._queries[number]), kind="stable")[: search.CANDIDATES]
        rankings = [search.Ranking(numbers=self._numbers[order].tolist(), weight=1)]
        if words:
            with self._store.read() as connection:
                rankings.append(search.by_words(self._store, connection, words, search.CANDIDATES, 0))
        scores: dict[int, float] = defaultdict(float)
        for ranking in rankings:
            for found, reciprocal in ranking.reciprocals().items():
                scores[found] += ranking.weight * reciprocal
        return [self._ids[found] for found in sorted(scores, key=lambda found: -scores[found])[:TOP]]


def _stored(home: Path) -> int:
    """How many items the store of this home has."""
    store = Database(f"sqlite:///{home / 'repli.db'}")
    if store.version() is None:
        return 0
    with store.read() as connection:
        return connection.scalar(sa.select(sa.func.count()).where(items.c.state == "stored")) or 0


def _catalogue(folder: Path, total: int) -> Path:
    from flows.demo_catalogue import build

    manifest = folder / "catalogue" / "catalogue.jsonl"
    return manifest if manifest.exists() else build(folder / "catalogue", items=total, broken=False, min_words=0)


def _records(manifest: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]


def _parts(manifest: Path) -> Mapping[str, Path]:
    """The catalogue in three, as the outage met it: the forced rung, and the items' own manifest."""
    drawn = np.random.default_rng(0).random(len(lines := manifest.read_text(encoding="utf-8").splitlines()))
    ends = {"hashed": OUTAGE["hashed"], "skip": sum(OUTAGE.values()), "": 1.0}
    parts, begin = {}, 0.0
    for rung, end in ends.items():
        parts[rung] = manifest.with_name(f"part-{rung or 'whole'}.jsonl")
        chosen = [line for line, draw in zip(lines, drawn, strict=True) if begin <= draw < end]
        parts[rung].write_text("\n".join(chosen) + "\n", encoding="utf-8")
        begin = end
    return parts


def _enrich(home: Path, manifest: Path, *options: str) -> None:
    environ = {**os.environ, "REPLI_HOME": str(home), "REPLI_GPU_DEVICE": "cpu"}
    environ.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", "flows.cli", "run", str(manifest), "--json", *options]
    summary = json.loads(subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True).stdout)
    print(f"{home.name}: {summary['stored']} stored, quality {summary['quality']}", file=sys.stderr)


def _glosses(manifest: Path) -> Iterator[Gloss]:
    """The nouns of one sense that have an article, by the glosses of WordNet, without their examples."""
    senses: dict[str, list[str]] = defaultdict(list)
    for line in NOUNS.read_text(encoding="latin-1").splitlines():
        if line.startswith(" "):  # the licence
            continue
        data, _, gloss = line.partition(" | ")
        fields = data.split()
        words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        for word in words:
            senses[word.replace("_", " ").lower()].append(gloss.partition('; "')[0].strip())
    for record in _records(manifest):
        title = record["name"]
        if len(glosses := senses.get(title.lower(), [])) == 1:
            shared = _stems(title) & _stems(glosses[0])
            yield Gloss(glosses[0], record["id"], bool(shared))


def _stems(text: str) -> set[str]:
    """Words without the commonest endings: "whales" shares "whale"."""
    return {re.sub(r"(ies|es|s|ing|ed)$", "", word) for word in search.words_of(text)}


if __name__ == "__main__":
    main()
