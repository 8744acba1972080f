"""The lookups and reads of a batch: each place once, each within its limit, and none waits for one that hangs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.spec import AbstractFileSystem

from repli.tasks.fallback import StepError
from repli.tasks.items import Asset
from repli.tasks.settings import FetchLimits
from repli.tasks.sources.batch import PARALLEL_READS, Batch, FetchResult, Lookup
from repli.tasks.sources.locate import Content, Place
from tests.support import ROOT

LONG_S = 30.0
"""Longer than anything here takes, on the slowest machine."""
LIMITS = FetchLimits(time_limit_s=1)


class HangingStore(AbstractFileSystem):  # type: ignore[misc]
    """An object store that accepts each request and never answers it."""

    protocol = "abfss"
    wakes = threading.Event()
    opened: ClassVar[list[str]] = []

    def _open(self, path: str, *args: Any, **options: Any) -> Any:
        self.opened.append(path)
        self.wakes.wait(LONG_S)
        raise OSError("it was waked")


@pytest.fixture
def hanging_store() -> Iterator[None]:
    """Give abfss:// to the store that hangs; no other test opens one."""
    fsspec.register_implementation("abfss", HangingStore, clobber=True)
    HangingStore.wakes.clear()
    HangingStore.opened.clear()
    yield
    HangingStore.wakes.set()


def keep(content: Content, place: Place) -> FetchResult:
    return Asset(uri=place.uri, sha256=content.data.decode(), size=1, media_type="text/plain", source="origin")


def batch_of(folder: Path, *images: str, limits: FetchLimits = LIMITS) -> Batch:
    """A batch of items with a picture each."""
    return Batch(
        [Lookup({"image": image}, str(folder), limits, may_be_text="document") for image in images], limits, keep
    )


def result(batch: Batch, position: int) -> FetchResult:
    located = batch.located[position]["image"]
    assert not isinstance(located, Content)
    return batch.read[located] if isinstance(located, Place) else located


def test_objects_that_hang_are_told_at_their_limit(tmp_path: Path, hanging_store: None) -> None:
    """More of them than are read at a time: each costs its own limit, the files behind them are read, and none waits.

    An item is handed over as soon as it is read, and not in the order of the batch.
    """
    (tmp_path / "a.png").write_text("a")
    (tmp_path / "b.png").write_text("b")
    hanging = [f"abfss://shop/{number}.png" for number in range(PARALLEL_READS + 1)]
    batch = batch_of(tmp_path, "a.png", *hanging, "b.png")
    last = len(hanging) + 1
    started = time.monotonic()
    order = list(batch.finished_items(LONG_S))
    assert 1 <= time.monotonic() - started < LONG_S / 2
    assert sorted(order) == list(range(last + 1))
    assert order[0] == 0
    for position in range(1, last):
        error = result(batch, position)
        assert isinstance(error, StepError)
        assert error.message == (
            f"abfss://shop/{position - 1}.png took longer than 1 s; try later or raise REPLI_FETCH_TIME_LIMIT_S"
        )
        assert error.retryable
    assert [result(batch, position) for position in (0, last)] == [
        keep(Content(name.encode()), Place((tmp_path / f"{name}.png").as_uri(), "", "", "file")) for name in "ab"
    ]


def test_items_that_share_a_place_share_its_read(tmp_path: Path, hanging_store: None) -> None:
    """Many items of one object that hangs: all are told after one limit, and only one thread waited for it."""
    batch = batch_of(tmp_path, *["abfss://shop/lamp.png"] * 4 * PARALLEL_READS)
    assert len(list(batch.finished_items(LONG_S))) == 4 * PARALLEL_READS
    assert len(batch.read) == len(HangingStore.opened) == 1


def test_a_batch_ends_at_its_deadline(tmp_path: Path, hanging_store: None) -> None:
    """What was not reached says so, and the batch is over before its rung would be cut off."""
    hanging = [f"abfss://shop/{number}.png" for number in range(PARALLEL_READS + 1)]
    batch = batch_of(tmp_path, *hanging, limits=FetchLimits(time_limit_s=LONG_S))
    assert len(list(batch.finished_items(0.3))) == len(hanging)
    for position in range(len(hanging)):
        error = result(batch, position)
        assert isinstance(error, StepError)
        assert error.message.endswith("was not read within its batch's time limit; use smaller batches")


STALE_MOUNT = """
import ctypes, os, sys, time
from pathlib import Path
from repli.tasks.settings import FetchLimits
from repli.tasks.sources.batch import Batch, Lookup
from repli.tasks.sources.locate import Place

folder = Path(sys.argv[1])
nobody_answers = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={nobody_answers},rootmode=40000,user_id=0,group_id=0".encode()
if ctypes.CDLL(None).mount(b"stale", str(folder / "stale").encode(), b"fuse", 0, options):
    sys.exit("no mount")
limits = FetchLimits(time_limit_s=1)
values = [{"document": "stale/page.html", "image": "a.png"}, {"document": "b.png", "image": "stale/a.png"}]
values = [*values * 8, {"image": "b.png"}]
lookups = [Lookup(declared, str(folder), limits, may_be_text="document") for declared in values]
batch = Batch(lookups, limits, lambda content, place: content.data.decode())
started = time.monotonic()
order = list(batch.finished_items(25))
seconds = time.monotonic() - started
for position in (0, 1, 16):
    located = batch.located[position]
    print({column: batch.read[one] if isinstance(one, Place) else one.message for column, one in located.items()})
print(len(order), 1 <= seconds < 15)
os._exit(0)  # the threads that hang are left
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a mount of one's own is Linux's")
def test_a_mount_that_does_not_answer_is_told_at_its_limit(tmp_path: Path) -> None:
    """Every access to a file system whose server is gone hangs in the kernel; the other files are read meanwhile."""
    (tmp_path / "stale").mkdir()
    for name in "ab":
        (tmp_path / f"{name}.png").write_text(name)
    as_root_of_its_own = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or not Path("/dev/fuse").exists():
        pytest.skip("unshare or /dev/fuse is missing")
    if subprocess.run([*as_root_of_its_own, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a name space of mounts")
    script = [sys.executable, "-c", STALE_MOUNT, str(tmp_path)]
    done = subprocess.run([*as_root_of_its_own, *script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    if done.stderr == "no mount\n":
        pytest.skip("this user may not mount FUSE")
    told = "took longer than 1 s; try later or raise REPLI_FETCH_TIME_LIMIT_S"
    assert done.stdout.splitlines() == [
        str({"document": f"stale/page.html {told}", "image": "a"}),
        str({"document": "b", "image": f"stale/a.png {told}"}),
        str({"image": "b"}),
        "17 True",
    ], done.stderr
