"""Hostile manifests, pages, PDFs and pictures at the edges where their bytes are read.

``python -m tests.benchmarks.mutations [DIR…]`` changes the bytes of real files, of those folders or else of the
installed packages, 500 times for each kind, and reads each: a manifest to its last item, a document by the rungs `full`
and `plain`, a picture as the input of both models. 500 documents more are no text at all, whatever they claim to be.

It ends with an error where something else than a declared error is raised, a call takes longer than the rungs' time
limit, or a text is returned that nobody can read. A call that does not return ends the process with its traceback.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from repli.tasks.fallback import Declined, InvalidItem, ItemError, UsageError
from repli.tasks.items import Asset
from repli.tasks.models.pictures import Preparation
from repli.tasks.pipeline import StageContext
from repli.tasks.settings import Settings
from repli.tasks.sources.locate import Content
from repli.tasks.sources.manifest import ManifestOptions, open_manifest
from repli.tasks.sources.media_type import charset_of, media_type_of
from repli.tasks.stages.extract_text import Document, full, plain
from repli.tasks.storage.blobs import Blobs
from repli.tasks.storage.database import Database
from tests.benchmarks.corpus import MAX_UNREADABLE, unreadable_share
from tests.support.hostile import Input, installed_packages, mutations, noise, real_files

EXAMPLES = 500
LIMIT_S = 20.0
"""The time limit of the rungs `full` and `plain`."""
HANGS_AFTER_S = 120.0
DECLARED = (UsageError, ItemError, Declined, InvalidItem)
PREPARATIONS = (Preparation(size=224, crop=0.875), Preparation(size=260, crop=0.89))


@dataclass(slots=True)
class Edge:
    """One place where bytes are read, and what came of it.

    Args:
        read: Reads an input; returns what is wrong with its answer, None for nothing.
    """

    title: str
    read: Callable[[Input], str | None]
    answers: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    wrong: list[tuple[str, Input]] = field(default_factory=list)

    def try_on(self, given: Input) -> None:
        faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True)
        began = time.monotonic()
        try:
            problem = self.read(given)
            self.answers["served"] += 1
        except DECLARED as error:
            problem = None
            self.answers[type(error).__name__] += 1
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        finally:
            faulthandler.cancel_dump_traceback_later()
        seconds = time.monotonic() - began
        self.slowest_s = max(self.slowest_s, seconds)
        if seconds > LIMIT_S:
            problem = f"took {seconds:.1f} s"
        if problem:
            self.wrong.append((problem, given))


class Readers:
    """The edges, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blobs = Blobs(folder / "blobs")
        chosen = Settings.from_environment({"REPLI_HOME": str(folder), "REPLI_BLOBS": str(folder / "blobs")})
        database = Database(chosen.database_url)
        self._context = StageContext(settings=chosen, database=database, run_id="run", now=datetime.now(UTC))

    def manifest(self, given: Input) -> str | None:
        """Read a manifest to its last item, each of which can be stored."""
        path = self._folder / f"m{given.suffix}"
        path.write_bytes(given.content)
        columns = {"id": given.column, "name": given.column} if given.column else {}
        for item in open_manifest(path, ManifestOptions(columns=columns)).items():
            json.dumps(item.record, allow_nan=False).encode()
            item.id.encode()
        return None

    def full(self, given: Input) -> str | None:
        return self._judge(full(self._document(given), self._context).value.text)

    def plain(self, given: Input) -> str | None:
        return self._judge(plain(self._document(given), self._context).value.text)

    def noise(self, given: Input) -> str | None:
        """Read by both rungs what is no text: any text is wrong."""
        document = self._document(given)
        try:
            return f"claims a text of noise by full: {full(document, self._context).value.text[:60]!r}"
        except Declined:
            return f"claims a text of noise by plain: {plain(document, self._context).value.text[:60]!r}"

    def picture(self, given: Input) -> str | None:
        """Prepare a picture for both models."""
        for preparation in PREPARATIONS:
            shape = preparation.prepare(given.content).shape
            if shape != (preparation.size, preparation.size, 3):
                return f"the input of the model is of shape {shape}"
        return None

    def _document(self, given: Input) -> Document:
        """Return a document as `fetch` hands it on."""
        content = Content(given.content, charset=given.charset)
        media_type = media_type_of(content, given.name)
        asset = Asset(
            uri=given.name,
            sha256=self._blobs.put(given.content),
            size=len(given.content),
            media_type=media_type,
            charset=charset_of(content, media_type),
            source="origin",
        )
        return Document(name="A thing", asset=asset)

    @staticmethod
    def _judge(text: str) -> str | None:
        share = unreadable_share(text)
        if share > MAX_UNREADABLE:
            return f"{share:.0%} of the text cannot be read: {text[:60]!r}"
        return None if any(map(str.isalnum, text)) else f"no words in {text[:60]!r}"


def run(edges: Sequence[Edge], inputs: st.SearchStrategy[Input], *, examples: int, chance: int) -> None:
    """Try edges on examples of a strategy, the same for the same seed."""

    @seed(chance)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def each(example: Input) -> None:
        for edge in edges:
            edge.try_on(example)

    each()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*", metavar="DIR")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="inputs of each kind")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the inputs that something is wrong with")
    options = parser.parse_args()
    faulthandler.enable()
    files = real_files(options.folders or [installed_packages()], random.Random(options.seed))
    with tempfile.TemporaryDirectory(prefix="repli-mutations-") as name:
        readers = Readers(Path(name))
        edges = {
            "manifest": [Edge("manifest", readers.manifest)],
            "page": [Edge("page, full", readers.full), Edge("page, plain", readers.plain)],
            "pdf": [Edge("PDF, full", readers.full), Edge("PDF, plain", readers.plain)],
            "picture": [Edge("picture", readers.picture)],
            "noise": [Edge("noise", readers.noise)],
        }
        for kind, some in edges.items():
            strategy = noise() if kind == "noise" else mutations(files[kind])
            run(some, strategy, examples=options.examples, chance=options.seed)
            for edge in some:
                slowest = f"slowest {edge.slowest_s:.2f} s"
                print(f"{edge.title:12} {edge.answers.total():5} inputs, {slowest}: {dict(edge.answers)}", flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB")
    wrong = [(edge.title, *found) for some in edges.values() for edge in some for found in edge.wrong]
    for number, (title, problem, cause) in enumerate(wrong):
        print(f"  {number}: {title}, {cause.name}: {problem}")
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / f"{number}-{cause.name}").write_bytes(cause.content)
    if wrong:
        sys.exit(f"{len(wrong)} things are wrong")


if __name__ == "__main__":
    main()
