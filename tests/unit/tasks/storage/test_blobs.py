"""Fetched bytes on a disk that is full, and calls that are cut off while they write."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from repli.tasks.fallback import StoreError
from repli.tasks.items import Item
from repli.tasks.storage import blobs as blob_store
from repli.tasks.storage.blobs import Blobs, keep_contents
from tests.support import ROOT

SIZE = 700_000
LIMITED = """
import resource, sys
from pathlib import Path
from repli.tasks.fallback import StoreError
from repli.tasks.storage import blobs as blob_store
from repli.tasks.storage.blobs import Blobs

blob_store.PATIENCE_S = 0
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
blobs = Blobs(Path(sys.argv[1]))
kept = blobs.put(b"small")
try:
    blobs.put(bytes(8192))
except StoreError as error:
    print(kept, error)
"""


class CutOff(BaseException):
    """What ends a call at its time limit: no `Exception`."""


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_contents_of_a_manifest_are_kept_beside_their_record(tmp_path: Path) -> None:
    """Each is a blob before its item goes on without it; an item without contents goes on as it is."""
    blobs = Blobs(tmp_path)
    plain = Item(id="a", name="A")
    carrying = Item(id="b", name="B", image="inline:x", inline=("image",), contents={"image": b"picture"})
    kept = list(keep_contents([plain, carrying], blobs))
    assert kept[0] is plain
    assert (kept[1].contents, kept[1].record) == ({}, carrying.record)
    assert blobs.read(hashlib.sha256(b"picture").hexdigest()) == b"picture"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if not (mount and umount):
        pytest.skip("there is no mount here")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "none", tmp_path], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no disk may be mounted here: {done.stderr.strip()}")
    yield tmp_path
    subprocess.run([umount, tmp_path], check=True)


def test_a_full_disk_keeps_no_part_of_a_blob(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even an empty file; what was there stays, and is readable."""
    monkeypatch.setattr(blob_store, "PATIENCE_S", 0)
    blobs = Blobs(small_disk / "blobs")
    kept = blobs.put(b"\0" * SIZE)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"cannot be written \(No space left on device\); see REPLI_HOME"):
            blobs.put(b"\1" * SIZE)
    assert files(small_disk) == [blobs.path(kept)]
    assert blobs.read(kept) == b"\0" * SIZE


def test_a_disk_that_is_full_for_a_while_is_waited_for(small_disk: Path) -> None:
    """The blob is written as soon as there is room."""
    other = small_disk / "other"
    other.write_bytes(bytes(SIZE))
    threading.Timer(1, other.unlink).start()
    blobs = Blobs(small_disk / "blobs")
    assert blobs.read(blobs.put(b"\1" * SIZE)) == b"\1" * SIZE


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits of this kind")
def test_a_file_that_may_not_grow_leaves_no_part_of_a_blob(tmp_path: Path) -> None:
    """The write fails in its midst, as on a full disk, on any machine."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    kept, _, told = done.stdout.partition(" ")
    assert "cannot be written (File too large); see REPLI_HOME" in told
    assert files(tmp_path) == [Blobs(tmp_path).path(kept)]


# Where `pathlib` is cut off between opening a file and guarding it, the collector closes it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_call_that_is_cut_off_leaves_no_part_of_a_blob(tmp_path: Path) -> None:
    """At whichever line: of `put`, and of what it calls while it writes."""
    content = b"a page" * 1000
    sha256 = hashlib.sha256(content).hexdigest()
    lines = 0
    while True:
        lines += 1
        blobs = Blobs(tmp_path / str(lines))
        if put_until(blobs, content, lines):
            break
        left = files(blobs.folder)
        assert left in ([], [blobs.path(sha256)]), f"cut off at line {lines}"
        assert all(path.read_bytes() == content for path in left)
    assert files(blobs.folder) == [blobs.path(sha256)]
    assert lines > 10, "it was cut off at each of its lines"


def put_until(blobs: Blobs, content: bytes, lines: int) -> bool:
    """Whether `put` ends before so many of its lines have run; it is cut off at the last of them."""
    left = lines

    def cut_off(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith(("blobs.py", "pathlib.py")):
            return None
        left -= event == "line"
        if left == 0:
            raise CutOff
        return cut_off

    before = sys.gettrace()
    sys.settrace(cut_off)
    try:
        blobs.put(content)
    except CutOff:
        return False
    finally:
        sys.settrace(before)
    return True


def test_the_same_bytes_are_kept_once(tmp_path: Path) -> None:
    """And only their owner may read them."""
    blobs = Blobs(tmp_path)
    kept = blobs.put(b"a page")
    assert blobs.put(b"a page") == kept
    assert files(tmp_path) == [blobs.path(kept)]
    assert blobs.path(kept).stat().st_mode & 0o777 == 0o600
