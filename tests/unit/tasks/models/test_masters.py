"""Masters are made once: in a process from memory, in a later one from disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from repli.tasks.fallback import ItemError
from repli.tasks.models.masters import MasterMemory, Masters
from tests.support import ROOT, files

SHA256 = "ab" * 32


class Blob:
    """The content of a picture, which counts how often it is read: each master that is made needs it once."""

    def __init__(self, seed: int = 0) -> None:
        self.content = files.png(seed)
        self.reads = 0

    def __call__(self) -> bytes:
        self.reads += 1
        return self.content


@pytest.fixture
def masters(tmp_path: Path) -> Masters:
    return Masters(tmp_path, MasterMemory())


def test_a_master_is_made_once(masters: Masters, tmp_path: Path) -> None:
    """Asked for three times; nothing is written."""
    blob = Blob()
    first, *others = [masters.get(SHA256, 300, blob) for _ in range(3)]
    assert blob.reads == 1
    assert all(other is first for other in others)
    assert list(tmp_path.rglob("*")) == []


def test_each_size_is_a_master_of_its_own(masters: Masters) -> None:
    """A model that needs more pixels does not get those of another."""
    blob = Blob()
    assert [masters.get(SHA256, side, blob).shape[0] for side in (30, 40, 30, 40)] == [30, 40, 30, 40]
    assert blob.reads == 2


def test_what_cannot_be_made_is_tried_again(masters: Masters) -> None:
    """An error is not kept: the file may be whole the next time."""
    blob = Blob()
    blob.content = b"no picture"
    for _ in range(2):
        with pytest.raises(ItemError):
            masters.get(SHA256, 300, blob)
    blob.content = files.png()
    assert masters.get(SHA256, 300, blob).shape == (80, 80, 3)


def test_another_process_finds_what_is_kept(masters: Masters, tmp_path: Path) -> None:
    """It gets the same pixels, and does not read the picture."""
    made = masters.get(SHA256, 300, Blob())
    masters.keep(SHA256, 300)
    program = (
        "import sys; from pathlib import Path; from repli.tasks.models.masters import Masters;"
        "sys.stdout.buffer.write(Masters(Path(sys.argv[1])).get(sys.argv[2], 300, sys.exit).tobytes())"
    )
    command = [sys.executable, "-c", program, str(tmp_path), SHA256]
    assert subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout == made.tobytes()


def test_a_damaged_file_is_made_anew(masters: Masters, tmp_path: Path) -> None:
    """From the picture, and kept again."""
    made = masters.get(SHA256, 300, Blob())
    masters.keep(SHA256, 300)
    [path] = [path for path in tmp_path.rglob("*") if path.is_file()]
    path.write_bytes(path.read_bytes()[:-100])
    blob, later = Blob(), Masters(tmp_path, MasterMemory())
    assert np.array_equal(later.get(SHA256, 300, blob), made)
    assert blob.reads == 1
    later.keep(SHA256, 300)
    assert np.array_equal(Masters(tmp_path, MasterMemory()).get(SHA256, 300, sys.exit), made)


def test_only_what_was_made_is_kept(masters: Masters, tmp_path: Path) -> None:
    """A picture that could not be read leaves no file."""
    masters.keep(SHA256, 300)
    assert list(tmp_path.rglob("*")) == []


def test_pruning_reaches_every_folder(masters: Masters, tmp_path: Path) -> None:
    """One at a time, drawn at random, so that what no one writes to any more is emptied too."""
    masters.get(SHA256, 300, Blob())
    masters.keep(SHA256, 300)
    [path] = [path for path in tmp_path.rglob("*") if path.is_file()]
    os.utime(path, (0, 0))
    for _ in range(256 * 40):  # each misses it with 255 of 256: all do in one of 10^17 runs
        masters.prune()
    assert not path.exists()


class TestMemory:
    """Masters in memory, within their bytes."""

    def test_those_used_longest_ago_are_dropped(self) -> None:
        """The third does not fit: the first was used since, so the second goes."""
        master = np.zeros((10, 10, 3), np.uint8)
        memory = MasterMemory(limit_bytes=600)
        for key in ("a", "b"):
            memory.put(key, master)
        assert memory.get("a") is master
        memory.put("c", master)
        assert [key for key in "abc" if memory.get(key) is not None] == ["a", "c"]

    def test_the_same_one_counts_once(self) -> None:
        """Two threads may have made it at the same time."""
        master = np.zeros((10, 10, 3), np.uint8)
        memory = MasterMemory(limit_bytes=600)
        for key in ("a", "b", "b", "b"):
            memory.put(key, master)
        assert memory.get("a") is not None

    def test_one_that_does_not_fit_is_not_kept(self) -> None:
        """And takes nothing else with it that would not come back: the memory still works."""
        memory = MasterMemory(limit_bytes=600)
        memory.put("large", np.zeros((100, 100, 3), np.uint8))
        assert memory.get("large") is None
        memory.put("small", np.zeros((10, 10, 3), np.uint8))
        assert memory.get("small") is not None
