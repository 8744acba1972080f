"""Run whatever files lie in folders, and look at what is claimed of them.

``python -m tests.benchmarks.corpus DIR…`` makes an item of each file, a picture or else a document by its suffix, runs
them by `repli run` into a store of its own, and prints: the statuses of each stage, why it was declined or skipped,
time-outs, deaths of workers, peak memory, and the share of unreadable characters in each text that counts as served.
Words are compared with `pdftotext`, where it is installed, and with the file `NAME.gold.txt` beside a file.

It ends with an error where the run fails, an item has no end, a worker dies, or a text that counts as served is one
that nobody can read.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from repli.tasks.sources.manifest.folder import IMAGE_SUFFIXES
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import items, step_results
from tests.support.command_line import command, environment

MAX_UNREADABLE = 0.05
SAMPLE_EVERY_S = 0.2
LISTED = 10
GOLD = ".gold.txt"
PICTURES = IMAGE_SUFFIXES | {".svg", ".heic", ".psd", ".eps"}
SERVED = ("succeeded", "degraded")
DIED = re.compile(r"worker.{0,80}(?:died|killed|exited|restart)", re.IGNORECASE)
_VARYING = re.compile(r"(?<=^the document )\S+|https?://\S+|/\S+|\(.*\)|'[^']*'|\d[\d.,]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How a run ended, the most memory by kind of process, and its messages on stderr."""

    status: int
    seconds: float
    peaks: Mapping[str, int]
    messages: str


@dataclass(slots=True)
class Findings:
    """What the store says of the files."""

    statuses: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    reasons: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    time_outs: list[str] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)
    texts: dict[Path, str] = field(default_factory=dict)
    unfinished: list[Path] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--per-suffix", type=int, metavar="N", help="take at most N files of each suffix, by chance")
    parser.add_argument("--suffixes", nargs="+", metavar="SUFFIX", help="take only files with these, such as .pdf")
    parser.add_argument("--seed", type=int, default=17)
    options = parser.parse_args()
    files = choose_files(options.folders, options.suffixes, options.per_suffix, random.Random(options.seed))
    if not files:
        sys.exit("there are no such files")
    with tempfile.TemporaryDirectory(prefix="repli-corpus-") as name:
        folder = Path(name)
        manifest = write_manifest(folder / "files", files)
        run = run_manifest(manifest, folder / "home")
        if run.status:
            sys.exit(f"the run ended with {run.status}: {run.messages[-2000:]}")
        found = look(Database(f"sqlite:///{folder / 'home' / 'repli.db'}"), files)
    broken = [*print_run(files, run, found), *print_texts(found.texts)]
    if broken:
        sys.exit("\n".join(["", *broken]))


def choose_files(
    folders: Iterable[Path], suffixes: Sequence[str] | None, per_suffix: int | None, chance: random.Random
) -> list[Path]:
    """Return the regular files under the folders without their gold files, each once."""
    found = {path.resolve() for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()}
    by_suffix: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(found):
        if not path.name.endswith(GOLD) and (not suffixes or path.suffix.lower() in suffixes):
            by_suffix[path.suffix.lower()].append(path)
    if per_suffix:
        by_suffix = {suffix: chance.sample(paths, min(per_suffix, len(paths))) for suffix, paths in by_suffix.items()}
    return [path for paths in by_suffix.values() for path in sorted(paths)]


def write_manifest(folder: Path, files: Sequence[Path]) -> Path:
    """Write a manifest of links to the files, whose names may be no paths in a manifest."""
    folder.mkdir()
    lines = []
    for number, path in enumerate(files):
        link = folder / f"{number:06}{path.suffix if path.suffix.isascii() else ''}"
        link.symlink_to(path)
        kind = "image" if path.suffix.lower() in PICTURES else "document"
        lines.append(json.dumps({"id": str(number), "name": f"file {number}", kind: link.name}))
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest


def run_manifest(manifest: Path, home: Path) -> Run:
    """Run `repli run`, and watch the memory of its processes."""
    peaks: dict[str, int] = defaultdict(int)
    began = time.monotonic()
    with (
        tempfile.TemporaryFile("w+") as messages,
        subprocess.Popen(
            command("run", manifest, "--json"),
            env={**environment(home), "REPLI_ALLOW_OUTSIDE_FILES": "1"},
            stdout=subprocess.DEVNULL,
            stderr=messages,
        ) as process,
    ):
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            for kind, size in _memory(watched).items():
                peaks[kind] = max(peaks[kind], size)
            time.sleep(SAMPLE_EVERY_S)
        messages.seek(0)
        return Run(
            status=process.returncode, seconds=time.monotonic() - began, peaks=dict(peaks), messages=messages.read()
        )


def _memory(watched: psutil.Process) -> Counter[str]:
    """Return the resident bytes of the command, the server and the largest worker."""
    sizes: Counter[str] = Counter()
    with suppress(psutil.NoSuchProcess):
        for process in (watched, *watched.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                is_server = any("prefect" in word for word in process.cmdline())
                kind = "command" if process.pid == watched.pid else "server" if is_server else "largest worker"
                sizes[kind] = max(sizes[kind], process.memory_info().rss)
    return sizes


def look(store: Database, files: Sequence[Path]) -> Findings:
    """Return what the store says of the files, whose items are named by their numbers."""
    found = Findings()
    with store.read() as connection:
        for row in connection.execute(sa.select(items)):
            if row.state == "pending":
                found.unfinished.append(files[int(row.id)])
        for row in connection.execute(sa.select(step_results)):
            path = files[int(row.item_id)]
            found.statuses[row.stage][f"{row.status} by {row.rung}" if row.rung else row.status] += 1
            errors = [attempt["error"] for attempt in row.attempts if attempt.get("error")]
            if row.error and row.status != "pending":
                found.reasons[row.stage][_kind_of(row.error)] += 1
            for error in errors:
                if error["type"] == "TimedOut":
                    found.time_outs.append(f"{path}: {error['message']}")
            if row.error and row.error["type"] == "WorkerDied":
                found.deaths.append(f"{path}: {row.error['message']}")
            if row.stage == "extract_text" and row.status in SERVED and row.rung != "name_only":
                found.texts[path] = row.value["text"]
    return found


def _kind_of(error: Mapping[str, Any]) -> str:
    """Return an error's type and message without what differs from file to file."""
    return f"{error['type']}: {_VARYING.sub('…', error['message'])[:150]}"


def print_run(files: Sequence[Path], run: Run, found: Findings) -> Iterator[str]:
    """Print how the run went, and yield a line for each promise that it breaks."""
    suffixes = Counter(path.suffix.lower() or "without a suffix" for path in files)
    print(f"{len(files):,} files in {run.seconds:.0f} s: {_counts(suffixes)}")
    print("peak memory: " + ", ".join(f"{kind} {size / 2**20:,.0f} MiB" for kind, size in run.peaks.items()))
    for stage, statuses in found.statuses.items():
        print(f"\n{stage}: {_counts(statuses)}")
        for reason, count in found.reasons[stage].most_common():
            print(f"  {count:6} {reason}")
    print(f"\ntime-outs: {len(found.time_outs)}")
    for line in found.time_outs[:LISTED]:
        print(f"  {line}")
    deaths = [*found.deaths, *(line for line in run.messages.splitlines() if DIED.search(line))]
    print(f"deaths of workers: {len(deaths)}")
    if deaths:
        yield f"{len(deaths)} deaths of workers, such as: {deaths[0]}"
    if found.unfinished:
        yield f"{len(found.unfinished)} items have no end, such as {found.unfinished[0]}"


def print_texts(texts: Mapping[Path, str]) -> Iterator[str]:
    """Print how good the texts are that count as served, and yield a line for each that nobody can read."""
    shares = {path: unreadable_share(text) for path, text in texts.items()}
    total = sum(map(len, texts.values()))
    damaged = sum(share > 0 for share in shares.values())
    print(f"\ntexts of documents served: {len(texts)}, with {total:,} characters")
    print(f"  with an unreadable character: {damaged}; at most {max(shares.values(), default=0):.1%} of a text")
    _print_words("pdftotext", {path: words for path in texts if (words := _by_pdftotext(path))}, texts)
    gold = {path: path.with_name(path.stem + GOLD) for path in texts}
    _print_words("gold", {path: _words(_read(file)) for path, file in gold.items() if file.is_file()}, texts)
    for path, share in sorted(shares.items(), key=lambda pair: -pair[1]):
        if share > MAX_UNREADABLE:
            yield f"{share:.0%} of the text of {path} cannot be read, and it counts as served"


def unreadable_share(text: str) -> float:
    """Return the share of the visible characters that are replacement, control, private-use or unassigned ones."""
    visible = [character for character in text if not character.isspace()]
    bad = sum(c == "\ufffd" or unicodedata.category(c) in {"Cc", "Cn", "Co", "Cs"} for c in visible)
    return bad / len(visible) if visible else 1.0


def _print_words(title: str, wanted: Mapping[Path, Counter[str]], texts: Mapping[Path, str]) -> None:
    """Print which share of the wanted words the texts have, and which share of theirs is wanted."""
    shares = {path: _shares(words, _words(texts[path])) for path, words in wanted.items()}
    if not shares:
        return
    recall, precision = (statistics.mean(both[place] for both in shares.values()) for place in (0, 1))
    print(f"  words against {title}, {len(shares)} files: {recall:.1%} found, {precision:.1%} of those found are right")
    for path, (found, right) in sorted(shares.items(), key=lambda pair: sum(pair[1]))[:LISTED]:
        if min(found, right) < 0.9:
            print(f"    {found:.0%} found, {right:.0%} right: {path}")


def _shares(wanted: Counter[str], found: Counter[str]) -> tuple[float, float]:
    common = (wanted & found).total()
    return common / max(1, wanted.total()), common / max(1, found.total())


def _by_pdftotext(path: Path) -> Counter[str]:
    if path.suffix.lower() != ".pdf" or not shutil.which("pdftotext"):
        return Counter()
    done = subprocess.run(["pdftotext", "-q", path, "-"], capture_output=True, timeout=60)
    return _words(done.stdout.decode("utf-8", errors="replace"))


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common())


if __name__ == "__main__":
    main()
