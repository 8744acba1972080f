"""A source is read as in its last run, where nothing else is asked for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from repli.tasks.sources.manifest import ManifestOptions
from repli.tasks.sources.manifest.remembered import remembered_options
from repli.tasks.storage import runs
from repli.tasks.storage.database import Database

GIVEN = ManifestOptions.parse(["name=Title"], delimiter=";")


@pytest.fixture
def shop(tmp_path: Path, database: Database) -> Path:
    """A manifest that needs options, and has been run with them."""
    path = tmp_path / "shop.csv"
    path.write_text("id;Title\na;Lamp\n")
    runs.start(database, "flow", str(path), {"limit": None, **GIVEN.as_options()}, datetime.now(UTC))
    return path


def test_the_next_run_takes_them(shop: Path, database: Database) -> None:
    """By hand, from the form, and at night: none of these has to name them."""
    assert remembered_options(database, shop, ManifestOptions()) == GIVEN


def test_the_folder_is_the_runs_own(shop: Path, database: Database) -> None:
    """Where relative paths start is said each time."""
    assert remembered_options(database, shop, ManifestOptions(folder="/f")) == replace(GIVEN, folder="/f")


def test_options_replace_all_of_them(shop: Path, database: Database) -> None:
    """What is given is not mixed with what was."""
    given = ManifestOptions.parse(["name=id"])
    assert remembered_options(database, shop, given) == given


def test_they_are_forgotten_where_they_do_not_fit_any_more(shop: Path, database: Database) -> None:
    """No message is about an option that nobody gave."""
    shop.write_text("id,name\na,Lamp\n")
    assert remembered_options(database, shop, ManifestOptions()) == ManifestOptions()


def test_another_source_has_none(shop: Path, tmp_path: Path, database: Database) -> None:
    """They belong to the file; a new store has none."""
    assert remembered_options(database, tmp_path / "other.csv", ManifestOptions()) == ManifestOptions()
    empty = Database(f"sqlite:///{tmp_path}/none.db")
    assert remembered_options(empty, shop, ManifestOptions()) == ManifestOptions()
