"""The user's cache: where it is, and which folders are not used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from repli.tasks.user_cache import cache_folder


def test_the_cache_is_where_the_user_has_it(tmp_path: Path) -> None:
    """Under XDG_CACHE_HOME, else under the home; it is there, and is the user's alone."""
    named, home = tmp_path / "named", tmp_path / "home"
    by_name = cache_folder("prefect", {"XDG_CACHE_HOME": str(named), "HOME": str(home)})
    by_home = cache_folder("prefect", {"HOME": str(home)})
    assert by_name == named / "repli" / "prefect"
    assert by_home == home / ".cache" / "repli" / "prefect"
    for folder in (by_name, by_home):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_relative_cache_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be another one in each working folder."""
    monkeypatch.chdir(tmp_path)
    found = cache_folder("prefect", {"XDG_CACHE_HOME": "here", "HOME": str(tmp_path / "home")})
    assert found == tmp_path / "home" / ".cache" / "repli" / "prefect"
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("folder", ["repli", "repli/prefect"])
@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path, folder: str, mode: int) -> None:
    """Whoever may write there could say what this user's runs start from."""
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder).chmod(mode)
    assert cache_folder("prefect", {"XDG_CACHE_HOME": str(tmp_path)}) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_a_folder_of_another_user_is_not_used(tmp_path: Path) -> None:
    """What is in it is theirs, even where this user may write to it."""
    (tmp_path / "repli").mkdir(mode=0o700)
    os.chown(tmp_path / "repli", 65534, 65534)
    assert cache_folder("prefect", {"XDG_CACHE_HOME": str(tmp_path)}) is None


def test_without_a_writable_place_there_is_no_cache(tmp_path: Path) -> None:
    """A file stands where the folder would be: nothing is raised, and nothing cached."""
    (tmp_path / "file").touch()
    assert cache_folder("prefect", {"XDG_CACHE_HOME": str(tmp_path / "file")}) is None
