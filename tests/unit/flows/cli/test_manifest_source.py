"""The source of a run: a path as it is, or standard input, kept in the home."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from repli.flows.cli.manifest_source import open_source
from repli.tasks.fallback import UsageError
from repli.tasks.settings import Settings
from repli.tasks.sources.manifest import open_manifest

LINES = b'{"id": "a", "name": "Lamp", "image": "a.png"}\n'


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Lines on standard input, in a folder of their own."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LINES)))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("piped")
def test_standard_input_is_a_manifest(settings: Settings, tmp_path: Path) -> None:
    """It is kept, since it is read more than once; its paths start where the command does."""
    with open_source(Path("-"), settings) as (path, options):
        [item] = open_manifest(path, options).items()
        assert (item.id, item.folder) == ("a", str(tmp_path))
    assert path.is_relative_to(settings.home.absolute())
    assert path.read_bytes() == LINES


@pytest.mark.usefixtures("piped")
def test_two_do_not_replace_each_others_lines(settings: Settings) -> None:
    """The second is told; after the first it may."""
    with (
        open_source(Path("-"), settings) as (path, _),
        pytest.raises(UsageError, match="another `repli run -` is active"),
        open_source(Path("-"), settings),
    ):
        pass
    with open_source(Path("-"), settings) as (again, _):
        assert again == path


def test_a_path_is_made_absolute(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow runs elsewhere."""
    monkeypatch.chdir(tmp_path)
    with open_source(Path("items.csv"), settings, columns=["name=Title"], delimiter=";") as (path, options):
        assert path == tmp_path / "items.csv"
        assert (options.columns, options.delimiter, options.folder) == ({"name": "Title"}, ";", None)
