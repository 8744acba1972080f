"""Hostile bytes by coverage: an atheris campaign on one of the edges of `tests.benchmarks.mutations`.

``pip install atheris``, then ``python -m tests.benchmarks.fuzz page --seconds 60``. It begins with real files of that
kind, and keeps inputs that reach new lines. It ends at the first thing that is wrong, and names the file that has its
input.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["repli.tasks.sources", "repli.tasks.stages.extract_text", "repli.tasks.text"]):
    from tests.benchmarks.mutations import Edge, Readers

from tests.support.hostile import Input, real_files

NAMES = {"manifest": ("m.csv", "m.jsonl", "m.tsv"), "page": ("x.html", "x.txt", "x"), "pdf": ("x.pdf",)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="repli-fuzz-"))  # stays: libFuzzer ends the process
    for number, real in enumerate(real_files([], random.Random(17))[options.kind]):
        (folder / f"{number}").write_bytes(real.content)
    readers = Readers(folder / "home")
    read = {"manifest": readers.manifest, "page": readers.full, "pdf": readers.plain}[options.kind]
    names = NAMES[options.kind]

    def one(content: bytes) -> None:
        edge = Edge(options.kind, read)
        edge.try_on(Input(name=names[len(content) % len(names)], content=content))
        if edge.wrong:
            raise AssertionError(edge.wrong[0][0])

    (folder / "home").mkdir()
    found = f"-artifact_prefix={folder}/found-"
    atheris.Setup(["fuzz", f"-max_total_time={options.seconds}", found, "-max_len=100000", str(folder)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
