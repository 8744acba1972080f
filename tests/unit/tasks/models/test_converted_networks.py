"""Networks that are kept for the machine: made once, bounded, and never an error where there is no place for them."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from repli.tasks.models import converted_networks
from repli.tasks.models.converted_networks import Converted, fetch, fingerprint_of
from repli.tasks.models.openvino_runtime import OpenvinoNetwork, openvino
from repli.tasks.user_cache import cache_folder


class Adder:
    """Makes a network that adds a number, and counts how often it was made."""

    def __init__(self, number: float = 1.0, while_made: Callable[[], None] = lambda: None) -> None:
        self.number = number
        self.made = 0
        self._while_made = while_made

    def __call__(self) -> Converted:
        ops = openvino.opset13
        self.made += 1
        self._while_made()
        given = ops.parameter([-1], np.float32)
        added = ops.constant(np.full(1000, self.number, np.float32))
        network = openvino.Model([ops.add(given, ops.gather(added, ops.constant([0]), ops.constant(0)))], [given])
        return Converted(network=network, description={"number": self.number})


def result(converted: Converted) -> float:
    """What the network makes of zero."""
    [answer] = OpenvinoNetwork(converted.network)(np.zeros(1, np.float32))
    return float(answer)


def folder() -> Path:
    found = cache_folder("networks")
    assert found is not None
    return found


def test_a_network_is_made_once() -> None:
    """It gives the same results when it is found, and its description comes with it."""
    adder = Adder(2.5)
    first, second = (fetch(lambda: "a1", adder) for _ in range(2))
    assert adder.made == 1
    assert (result(first), result(second)) == (2.5, 2.5)
    assert second.description == {"number": 2.5}
    assert fetch(lambda: "b2", Adder(3)).description == {"number": 3}


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("name", ["network.bin", "network.xml", "description.json", "checksums.json"])
@pytest.mark.parametrize("damage", [flip_a_byte, cut, Path.unlink], ids=["flipped", "cut", "removed"])
def test_a_damaged_network_is_made_anew(name: str, damage: Callable[[Path], None]) -> None:
    """One byte is enough; the new one is kept in its place."""
    adder = Adder()
    fetch(lambda: "a1", adder)
    damage(folder() / "a1" / name)
    assert result(fetch(lambda: "a1", adder)) == 1
    assert adder.made == 2
    fetch(lambda: "a1", adder)
    assert adder.made == 2


def test_a_source_without_a_fingerprint_is_not_kept() -> None:
    """The name of a model on a hub says nothing about what it is today."""
    adder = Adder()
    for _ in range(2):
        fetch(lambda: None, adder)
    assert adder.made == 2
    assert list(folder().iterdir()) == []


def test_a_source_that_changes_while_it_is_read_is_not_kept() -> None:
    """The network would be found under the state of files that it was not made from."""
    states = iter(["a1", "b2"])
    assert result(fetch(lambda: next(states), Adder())) == 1
    assert not any(path.is_dir() for path in folder().iterdir())


def test_without_a_cache_each_process_converts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file stands where the folder would be."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    adder = Adder()
    assert [result(fetch(lambda: "a1", adder)) for _ in range(2)] == [1, 1]
    assert adder.made == 2


def test_a_cache_without_room_is_no_error() -> None:
    """A disk that takes no more than half of the network: it is used, not kept, and nothing is left behind."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))  # Python ignores SIGXFSZ: a write raises OSError
    try:
        converted = fetch(lambda: "a1", Adder())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert result(converted) == 1
    assert [path.name for path in folder().iterdir()] == ["a.lock"]


def test_others_wait_for_the_one_that_converts() -> None:
    """Eight at once: one converts, and all have the network."""
    adder = Adder(4, while_made=lambda: time.sleep(0.3))
    found: list[float] = []
    threads = [threading.Thread(target=lambda: found.append(result(fetch(lambda: "a1", adder)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (found, adder.made) == ([4] * 8, 1)


def test_a_process_that_hangs_holds_up_no_other_for_long() -> None:
    """It holds the lock and never gives it back: after the limit the caller converts for itself, and keeps it."""
    descriptor = os.open(folder() / "a.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        started = time.monotonic()
        assert result(fetch(lambda: "a1", Adder(), lock_limit_s=0.3)) == 1
        assert 0.3 <= time.monotonic() - started < 10
        assert result(fetch(lambda: "a1", Adder(7), lock_limit_s=0.3)) == 1
    finally:
        os.close(descriptor)


def test_networks_that_were_used_last_are_kept() -> None:
    """No more than the limit; one that is used is as good as new. What a killed process left behind goes too."""
    folder().joinpath(".killed").mkdir()
    os.utime(folder() / ".killed", (0, 0))
    folder().joinpath(".running").mkdir()
    names = [f"{number:02x}" for number in range(converted_networks.KEEP + 2)]
    for age, name in enumerate(names[:-1]):
        fetch(lambda name=name: name, Adder())  # type: ignore[misc]
        os.utime(folder() / name, (1000 + age, 1000 + age))
    fetch(lambda: names[1], Adder())
    fetch(lambda: names[-1], Adder())
    left = {path.name for path in folder().iterdir() if path.is_dir()}
    assert left == {names[1], *names[3:], ".running"}


class TestFingerprints:
    """When a network that was kept is that of a source."""

    def test_each_file_counts(self, tmp_path: Path) -> None:
        """Another content, another time, a file that comes or goes, or another source: another name."""
        files = [tmp_path / "weights.pt", tmp_path / "labels.txt"]
        files[0].write_bytes(b"weights")
        seen = [fingerprint_of("pets", files), fingerprint_of("dogs", files)]
        files[1].write_text("cat")
        seen.append(fingerprint_of("pets", files))
        files[1].write_text("dogs")
        seen.append(fingerprint_of("pets", files))
        os.utime(files[0], (1, 1))
        seen.append(fingerprint_of("pets", files))
        assert len(set(seen)) == 5
        assert fingerprint_of("pets", reversed(files)) == seen[-1]

    def test_equal_size_and_time_are_not_enough(self, tmp_path: Path) -> None:
        """A copy that keeps the old time cannot keep the time of the last change."""
        file = tmp_path / "weights.pt"
        file.write_bytes(b"weights")
        before, state = fingerprint_of("pets", [file]), file.stat()
        file.write_bytes(b"WEIGHTS")
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert fingerprint_of("pets", [file]) != before

    def test_a_pipe_has_none(self, tmp_path: Path) -> None:
        """Its state says nothing about what will be read from it."""
        os.mkfifo(tmp_path / "pipe")
        assert fingerprint_of("pets", [tmp_path / "pipe"]) is None
