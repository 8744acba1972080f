"""How well search finds: WordNet's glosses as queries, the article of the glossed word as the one relevant item.

``python -m tests.benchmarks.search_quality`` enriches the 10,033 Wikipedia introductions, takes nouns of one sense that
have an article by their name, and looks for each by its gloss alone: by words, by vectors, and by both. Beside all
queries stand those that share no word with the title. Half of the queries, the odd ones, were looked at when the fusion
was tuned; the figures are of the other half.

Then the same after an outage: a third of the items have a vector of hashed words or none. `repli`'s search keeps spaces
apart and weighs by quality. Beside it stand one that weighs by expected accuracy (`--rank-by`), one that leaves both
out, and one that besides compares all vectors with each other, as one matrix of model vectors and hashed words of the
same length would have it; all fused alike.

WordNet 3.0 is Debian's: ``apt-get install wordnet-base``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from repli.tasks.models import text_embedder
from repli.tasks.models.word_hashing import HASHED_SPACE
from repli.tasks.settings import ModelSettings
from repli.tasks.stages.embed_text import hashed_words
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import documents, items, step_results
from repli.tasks.storage.search.matrices import Matrices
from repli.tasks.storage.search.query import (
    CANDIDATES,
    RankBy,
    Ranking,
    Vectors,
    best_hits,
    by_vectors,
    by_words,
    fuse,
    words_of,
)

NOUNS = Path("/usr/share/wordnet/data.noun")
TOP = 10
OUTAGE = {"hashed": (0, 2 / 9), "skip": (2 / 9, 1 / 3)}
"""Which third of the items, drawn from 0 to 1, have a vector of hashed words, or none."""


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
        _hit_by_outage(healthy, outage, manifest)
    queries = list(_glosses(manifest))[int(tuning) :: 2][:count]
    texts = [query.text for query in queries]
    embedder = text_embedder.load(ModelSettings().text)
    vectors = {embedder.space: embedder.embed(texts), HASHED_SPACE: hashed_words(texts)}
    apart = [not query.shares_a_word for query in queries]
    print(f"{len(queries)} glosses, {sum(apart)} of which share no word with the title, over {total} items")
    for home in (healthy, outage):
        store = Database(f"sqlite:///{home / 'repli.db'}")
        store.migrate()
        groups = {"all": [True] * len(queries), "no shared word": apart}
        mixed = None
        if home is outage:
            mixed = _Mixed(store, embedder.space)
            spaces = _spaces(store)
            named = {"of the model": embedder.space, "of hashed words": HASHED_SPACE, "none": None}
            groups |= {
                f"vector: {name}": [spaces[query.item_id] == one for query in queries] for name, one in named.items()
            }
        ranks: dict[str, list[int | None]] = defaultdict(list)
        for number, query in enumerate(queries):
            of_query = {space: of_space[number] for space, of_space in vectors.items()}
            for way, found in _found(store, words_of(query.text), of_query, mixed).items():
                ranks[way].append(found.index(query.item_id) + 1 if query.item_id in found else None)
        print(f"\n{home.name}: hit@1 · hit@10 · MRR@10\n")
        print(f"| | {' | '.join(f'{name} ({sum(group)})' for name, group in groups.items())} |")
        print("|---" * (len(groups) + 1) + "|")
        for way, of_way in ranks.items():
            cells = [_figures(list(compress(of_way, group))) for group in groups.values()]
            print(f"| {way} | {' | '.join(cells)} |", flush=True)


def _found(store: Database, words: Sequence[str], vectors: Vectors, mixed: _Mixed | None) -> Mapping[str, list[str]]:
    """Return the ids that each way of looking finds. Unlike `storage.search.query.search`, each list is made once."""
    of_meaning = list(by_vectors(store, vectors, CANDIDATES, 0))
    with store.read() as connection:
        of_words = by_words(store, connection, words, CANDIDATES, 0)
        ways = {"keyword": (of_words, None), "vector": (None, of_meaning), "hybrid": (of_words, of_meaning)}
        weighed = {"": RankBy.QUALITY, ", by expected accuracy": RankBy.EXPECTED_ACCURACY}
        found = {
            f"{way}{by}": [hit.id for _, hit in best_hits(connection, fuse(*lists), TOP, rank_by)]
            for way, lists in ways.items()
            for by, rank_by in weighed.items()
        }
    if mixed:
        for way in "vector", "hybrid":
            found[f"{way}, whatever the quality"] = mixed.best(fuse(*ways[way]))
            found[f"{way}, spaces mixed"] = mixed.best(fuse(ways[way][0], [mixed.nearest(vectors)]))
    return found


def _figures(ranks: Sequence[int | None]) -> str:
    found = [rank for rank in ranks if rank]
    first, ten = sum(rank == 1 for rank in found), len(found)
    reciprocal = sum(1 / rank for rank in found)
    return " · ".join(f"{value / len(ranks):.3f}" for value in (first, ten, reciprocal))


class _Mixed:
    """A search that takes all vectors for the model's, words hashed to as many numbers, and knows no quality."""

    def __init__(self, store: Database, space: str) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        self._space = space
        with store.read() as connection:
            columns = documents.c.number, documents.c.item_id, documents.c.name, documents.c.text, documents.c.space
            rows = connection.execute(sa.select(*columns)).all()
        with Matrices(store).open() as matrices:
            by_model = dict(zip(matrices[space].numbers.tolist(), matrices[space].vectors, strict=True))
            self._matrix = np.zeros((len(rows), matrices[space].vectors.shape[1]), np.float32)
        hasher = HashingVectorizer(n_features=self._matrix.shape[1], norm="l2")
        for place, row in enumerate(rows):
            if row.space == space:
                self._matrix[place] = by_model[row.number]
            elif row.space == HASHED_SPACE:
                self._matrix[place] = hasher.transform([f"{row.name}. {row.text}"]).toarray()[0]
        self._numbers = np.array([row.number for row in rows])
        self._ids = {row.number: row.item_id for row in rows}

    def nearest(self, vectors: Vectors) -> Ranking:
        order = np.argsort(-(self._matrix @ vectors[self._space]), kind="stable")[:CANDIDATES]
        return Ranking(numbers=self._numbers[order].tolist())

    def best(self, parts: Mapping[int, float]) -> list[str]:
        """The ids of the first, whatever their quality."""
        return [self._ids[number] for number in sorted(parts, key=lambda number: -parts[number])[:TOP]]


def _spaces(store: Database) -> dict[str, str | None]:
    """The space of each item's vector, by its id."""
    with store.read() as connection:
        rows = connection.execute(sa.select(documents.c.item_id, documents.c.space)).all()
    return {row.item_id: row.space for row in rows}


def _stored(home: Path) -> int:
    """How many items the store of this home has."""
    store = Database(f"sqlite:///{home / 'repli.db'}")
    if store.version() is None:
        return 0
    with store.read() as connection:
        return connection.scalar(sa.select(sa.func.count()).where(items.c.state == "stored")) or 0


def _catalogue(folder: Path, total: int) -> Path:
    from repli.flows.cli.demo.catalogue import build

    manifest = folder / "catalogue" / "catalogue.jsonl"
    return manifest if manifest.exists() else build(folder / "catalogue", items=total, broken=False, min_words=0)


def _records(manifest: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]


def _hit_by_outage(healthy: Path, outage: Path, manifest: Path) -> None:
    """A copy of a store in which a third of the items have lost their vector, and are embedded again by lower rungs."""
    outage.mkdir()
    with closing(sqlite3.connect(healthy / "repli.db")) as whole, closing(sqlite3.connect(outage / "repli.db")) as copy:
        whole.backup(copy)
    store = Database(f"sqlite:///{outage / 'repli.db'}")
    lines = manifest.read_text(encoding="utf-8").splitlines()
    drawn = np.random.default_rng(0).random(len(lines))
    for rung, (begin, end) in OUTAGE.items():
        part = manifest.with_name(f"part-{rung}.jsonl")
        chosen = [line for line, draw in zip(lines, drawn, strict=True) if begin <= draw < end]
        part.write_text("\n".join(chosen) + "\n", encoding="utf-8")
        ids = [json.loads(line)["id"] for line in chosen]
        lost = step_results.c.stage.in_(["embed_text", "store"]), step_results.c.item_id.in_(ids)
        with store.write() as connection:
            connection.execute(sa.delete(step_results).where(*lost))
            connection.execute(sa.update(items).where(items.c.id.in_(ids)).values(state="pending", quality=None))
        _enrich(outage, part, "--force", f"embed_text={rung}")


def _enrich(home: Path, manifest: Path, *options: str) -> None:
    environ = {**os.environ, "REPLI_HOME": str(home), "REPLI_GPU_DEVICE": "cpu"}
    environ.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", "repli.flows.cli.app", "run", str(manifest), "--json", *options]
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
    return {re.sub(r"(ies|es|s|ing|ed)$", "", word) for word in words_of(text.lower())}


if __name__ == "__main__":
    main()
