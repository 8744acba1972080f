"""Models that are loaded in threads of their own: once, within a limit, and from files that hang."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

from repli.tasks.fallback import TimedOut, Unavailable
from repli.tasks.models import image_classifier, text_embedder
from repli.tasks.models.loading import LOAD_LIMIT_S, ModelLoader
from repli.tasks.runtime.time_limit import TimeLimiter
from repli.tasks.stages.classify_image import STAGE as CLASSIFY_IMAGE
from tests.support.files import png
from tests.support.own_models import classifier, save_checkpoint, save_word_vectors

M = TypeVar("M")

SOON_S = 0.2
"""A limit that a load which hangs reaches at once."""
LONG_S = 30.0
"""Longer than anything here takes, on the slowest machine."""


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """A file whose reader hangs until something is written to it."""
    path = tmp_path / "pets.labels.txt"
    os.mkfifo(path)
    yield path
    with suppress(OSError):  # nobody reads it any more
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def loader_of(function: Callable[..., str], limit_s: float = LONG_S, keep: int = 2) -> ModelLoader[..., str]:
    return ModelLoader(function, what="model", keep=keep, limit_s=limit_s)


def once_loaded(load: Callable[[], M]) -> M:
    """The model of a load that hung and goes on."""
    deadline = time.monotonic() + LONG_S
    while time.monotonic() < deadline:
        with suppress(TimedOut):
            return load()
        time.sleep(0.01)
    pytest.fail("the load ended, and its model is not used")


def test_load_that_hangs_is_told_and_used_when_it_ends(pipe: Path) -> None:
    """A caller waits until the limit, later ones are told at once, and the model is used where the load ends at last.

    None of them loads it a second time.
    """
    load = loader_of(read, limit_s=SOON_S)
    message = rf"^model PosixPath\('{pipe}'\) has been loading since \d\d:\d\d:\d\d UTC, for more than 0.2 s; check"
    with pytest.raises(TimedOut, match=message):
        load(pipe)
    started = time.monotonic()
    for _ in range(100):
        with pytest.raises(TimedOut, match=message):
            load(pipe)
    assert time.monotonic() - started < 100 * SOON_S / 2
    assert sum(thread.name == "load" for thread in threading.enumerate()) == 1
    pipe.write_text("a model", encoding="utf-8")
    assert once_loaded(lambda: load(pipe)) == "a model"


def test_start_waits_for_nothing(pipe: Path) -> None:
    """A worker's only task thread begins a load and goes on; the first caller waits for that load and begins none."""
    load = loader_of(read)
    load.start(pipe)
    load.start(pipe)
    pipe.write_text("a model", encoding="utf-8")
    assert load(pipe) == "a model"


def test_model_is_loaded_once_for_many_callers() -> None:
    """Threads that ask for one model at the same time get the same one; another device has another."""
    calls: list[tuple[str, str]] = []
    may_end = threading.Event()

    def slow(source: str, device: str) -> str:
        calls.append((source, device))
        may_end.wait(LONG_S)
        return f"{source} on {device}"

    load = loader_of(slow)
    models: list[str] = []
    threads = [threading.Thread(target=lambda: models.append(load("lite0", "cpu"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    load.start("lite0", "cuda")
    may_end.set()
    for thread in threads:
        thread.join(LONG_S)
    assert models == ["lite0 on cpu"] * 8
    assert load("lite0", "cuda") == "lite0 on cuda"
    assert sorted(calls) == [("lite0", "cpu"), ("lite0", "cuda")]


def test_load_that_raised_is_tried_again() -> None:
    """Its error is its caller's, and a model that is installed meanwhile is found."""
    errors: list[BaseException] = [Unavailable("it is not installed"), SystemExit(3)]

    def load(source: str) -> str:
        if errors:
            raise errors.pop(0)
        return source

    loader = loader_of(load)
    with pytest.raises(Unavailable, match="it is not installed"):
        loader("lite0")
    with pytest.raises(SystemExit):
        loader("lite0")
    assert loader("lite0") == "lite0"


def test_models_that_were_used_last_are_kept() -> None:
    """A process does not fill up with the models of runs that are over; a load that hangs is not begun again."""
    calls: list[str] = []
    may_end = threading.Event()

    def note(source: str) -> str:
        calls.append(source)
        if source == "hangs":
            may_end.wait(LONG_S)
        return source

    load = loader_of(note, keep=2)
    load.start("hangs")
    for source in ("a", "b", "a", "c", "a", "b"):
        load(source)
    load.start("hangs")
    may_end.set()
    assert load("hangs") == "hangs"
    assert sorted(calls) == ["a", "b", "b", "c", "hangs"]


def test_caller_that_waits_for_a_load_can_be_cut_off(pipe: Path) -> None:
    """A probe, whose limit is shorter than that of a load, leaves no thread behind that waits on."""
    load = loader_of(read)
    threads: list[threading.Thread] = []

    def rung() -> str:
        threads.append(threading.current_thread())
        return load(pipe)

    with pytest.raises(TimedOut, match=r"classify_image\.cpu was cut off"):
        TimeLimiter()(rung, SOON_S, "classify_image.cpu")
    threads[0].join(LONG_S / 2)
    assert not threads[0].is_alive()
    pipe.write_text("a model", encoding="utf-8")
    assert load(pipe) == "a model"


def test_callers_wait_less_long_than_their_rungs() -> None:
    """A load that hangs is told by its own message, which names the model, and not by the rung's time limit."""
    assert min(rung.time_limit_s for rung in CLASSIFY_IMAGE.chain.rungs if rung.breaker) > LOAD_LIMIT_S


def test_image_model_whose_file_hangs_is_told(pipe: Path) -> None:
    """A real checkpoint whose file of labels is on a disk that does not answer, and then does."""
    source = save_checkpoint(classifier([0.0, 9.0]), pipe.with_name("pets.pt"))
    load = ModelLoader(image_classifier.load.__wrapped__, what="image model", keep=1, limit_s=1)
    with pytest.raises(TimedOut, match=r"image model 'timm:test_resnet@.*pets\.pt' has been loading since"):
        load(source, "cpu")
    pipe.write_text("cat\ndog\n", encoding="utf-8")
    model = once_loaded(lambda: load(source, "cpu"))
    [(label, *_)] = model.classify([model.prepare(png())])
    assert label.label == "dog"


def test_text_model_whose_file_hangs_is_told(tmp_path: Path) -> None:
    """A real folder of a text model, of which one file is on a disk that does not answer."""
    save_word_vectors(tmp_path / "mine")
    file = tmp_path / "mine" / "config_sentence_transformers.json"
    content = file.read_bytes()
    file.unlink()
    os.mkfifo(file)
    load = ModelLoader(text_embedder.load.__wrapped__, what="text model", keep=1, limit_s=1)
    with pytest.raises(TimedOut, match=r"text model '.*mine' has been loading since"):
        load(str(tmp_path / "mine"))
    with file.open("wb") as pipe:  # the load holds its other end
        file.unlink()
        file.with_suffix(".new").write_bytes(content)
        file.with_suffix(".new").rename(file)  # where it looks at the file again
        pipe.write(content)
    assert once_loaded(lambda: load(str(tmp_path / "mine"))).embed(["lamp"]).shape == (1, 8)
