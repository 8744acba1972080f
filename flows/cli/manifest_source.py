"""The source of `repli run`: a path, or standard input, and the options to read it with."""

from __future__ import annotations

import fcntl
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from repli.flows.cli.output import print_note
from repli.tasks.fallback import StoreError, UsageError
from repli.tasks.settings import Settings
from repli.tasks.sources.manifest import ManifestOptions
from repli.tasks.sources.manifest.remembered import remembered_options
from repli.tasks.storage.database import Database

STANDARD_INPUT = Path("-")


@contextmanager
def open_source(
    source: Path,
    settings: Settings,
    *,
    columns: Sequence[str] = (),
    delimiter: str | None = None,
    encoding: str | None = None,
) -> Iterator[tuple[Path, ManifestOptions]]:
    """Yield the absolute path of a manifest and how to read it. Standard input is copied into the home first.

    Without options, those of the source's last run count, and are told.

    Raises:
        UsageError: An option cannot be used, or nothing is piped in.
        StoreError: The home cannot be written.
    """
    given = ManifestOptions.parse(columns, delimiter=delimiter, encoding=encoding)
    if source == STANDARD_INPUT:
        with _kept_standard_input(settings.home) as path:
            yield path, _remembered(settings, path, replace(given, folder=str(Path.cwd())))
        return
    path = source.absolute()
    yield path, _remembered(settings, path, given)


def _remembered(settings: Settings, path: Path, given: ManifestOptions) -> ManifestOptions:
    options = remembered_options(Database(settings.database_url), path, given)
    if options != given:
        print_note(f"read as in its last run: {_shown(options)}")
    return options


@contextmanager
def _kept_standard_input(home: Path) -> Iterator[Path]:
    """Yield the path of a copy of standard input, which no other command replaces while the block runs.

    The copy stays, so that the run can be repeated; the next one replaces it.
    """
    if sys.stdin.isatty():
        raise UsageError("- reads JSONL from standard input; pipe it in, such as: zcat items.jsonl.gz | repli run -")
    folder = home.absolute() / "stdin"
    path = folder / "standard-input.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError("another `repli run -` is active on this home; wait for its end") from None
            fresh = path.with_suffix(".new")
            with fresh.open("wb") as copy:
                shutil.copyfileobj(sys.stdin.buffer, copy)
            fresh.replace(path)
            yield path
    except OSError as error:
        raise StoreError(f"the home {home} cannot be written ({error.strerror}); see REPLI_HOME") from error


def _shown(options: ManifestOptions) -> str:
    given = [f"--column {spec!r}" for spec in options.column_specs]
    given += [f"--delimiter {options.delimiter!r}"] if options.delimiter else []
    given += [f"--encoding {options.encoding}"] if options.encoding else []
    return " ".join(given)
