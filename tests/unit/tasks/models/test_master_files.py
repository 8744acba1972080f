"""Masters on disk: whole or not there, whatever the disk does; within their bytes and their age."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from repli.tasks.models.master_files import MasterFiles

NAME = "ab" * 32 + "-300"
HOUR_S = 3600.0


def master(seed: int = 0, side: int = 30) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def in_one_folder(count: int) -> list[str]:
    """Names that share a subfolder."""
    return [f"ab{number:062x}-300" for number in range(count)]


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """This process can write files of so many bytes, and no more: a disk that is full in the middle of one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_master_is_read_as_it_was_written(tmp_path: Path) -> None:
    """By another object on the same folder, to the bit; a name that was not written is not there."""
    MasterFiles(tmp_path).write(NAME, master())
    assert np.array_equal(MasterFiles(tmp_path).read(NAME), master())  # type: ignore[arg-type]
    assert MasterFiles(tmp_path).read("cd" * 32 + "-300") is None
    assert written(tmp_path) == [NAME]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:10],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:-5] + bytes([content[-5] ^ 1]) + content[-4:],
        lambda content: content.replace(b"master 1", b"master 0"),
        lambda content: b"\0" * len(content),
    ],
    ids=["empty", "no header", "a byte less", "a byte more", "a bit turned", "another version", "zeros"],
)
def test_a_damaged_file_is_a_master_that_is_not_there(tmp_path: Path, damage: object) -> None:
    """It is deleted, so that the next one is written in its place."""
    files = MasterFiles(tmp_path)
    files.write(NAME, master())
    path = tmp_path / "ab" / NAME
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert files.read(NAME) is None
    assert written(tmp_path) == []
    files.write(NAME, master(1))
    assert np.array_equal(files.read(NAME), master(1))  # type: ignore[arg-type]


def test_a_disk_that_is_full_in_the_middle_of_a_file(tmp_path: Path) -> None:
    """No error, and no part stays; with room again it is written."""
    files = MasterFiles(tmp_path)
    with files_end_at(1000):
        files.write(NAME, master())
    assert (files.read(NAME), written(tmp_path)) == (None, [])
    files.write(NAME, master())
    assert files.read(NAME) is not None


def test_a_disk_with_little_room_is_left_alone(tmp_path: Path) -> None:
    """What is fetched needs it more."""
    MasterFiles(tmp_path, free_bytes=2**62).write(NAME, master())
    assert written(tmp_path) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A file stands in its place: nothing is kept, nothing is found, nothing is raised."""
    (tmp_path / "cache").write_bytes(b"")
    files = MasterFiles(tmp_path / "cache" / "pictures")
    files.write(NAME, master())
    files.prune(NAME)
    assert files.read(NAME) is None


def test_each_folder_keeps_its_share_of_the_newest(tmp_path: Path) -> None:
    """Of ten masters in one folder the three newest fit; another folder has its own share."""
    one = len(master().tobytes()) + 100
    files = MasterFiles(tmp_path, limit_bytes=256 * 3 * one)
    files.write("cd" * 32 + "-300", master())
    for age, name in zip(range(10, 0, -1), in_one_folder(10), strict=True):
        files.write(name, master())
        written_at = time.time() - age
        os.utime(tmp_path / "ab" / name, (written_at, written_at))
    files.prune("ab")
    assert written(tmp_path / "ab") == in_one_folder(10)[-3:]
    assert written(tmp_path / "cd") == ["cd" * 32 + "-300"]


def test_writing_prunes(tmp_path: Path) -> None:
    """However many are written, a folder never has more than its share, and the last is among them."""
    one = len(master().tobytes()) + 100
    files = MasterFiles(tmp_path, limit_bytes=256 * 2 * one)
    for name in in_one_folder(20):
        files.write(name, master())
        assert len(written(tmp_path)) <= 2
    assert files.read(in_one_folder(20)[-1]) is not None


def test_what_is_old_is_deleted(tmp_path: Path) -> None:
    """Parts that a process left behind when it died too; what is young stays."""
    files = MasterFiles(tmp_path, max_age_s=HOUR_S)
    old, young = in_one_folder(2)
    for name in (old, young):
        files.write(name, master())
    part = tmp_path / "ab" / f"{old}.0123.part"
    part.write_bytes(b"half a mas")
    for path in (part, tmp_path / "ab" / old):
        os.utime(path, (time.time() - 2 * HOUR_S,) * 2)
    files.prune("ab")
    assert written(tmp_path) == [young]
