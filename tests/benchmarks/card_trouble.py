"""A card in trouble in the midst of a run: its memory taken by another program and given back, a sticky CUDA error.

All runs go to one standing Prefect server and Dask cluster, and each has a home of its own. A rehearsal injects the
same failures where there is no card: out of memory on half of the items, and a classifier that raises the error.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NoReturn

from distributed import Client

from tests.benchmarks.card_memory import memory_taker
from tests.benchmarks.card_setting import LOOK_EVERY_S, Setting, counted, failures, improvable, results
from tests.support.command_line import environment
from tests.support.preloaded import Command, Preloaded, Shop
from tests.support.servers import standing_cluster

BEGINS_WITHIN_S = 60.0
HEALS_WITHIN_S = 150.0
"""An open breaker lets a probe through after 60 s."""
SHARE_UNDER_PRESSURE = 0.5
"""Of the items that are classified before the memory is given back."""
STAGE = "classify_image"
SHORT_OF_MEMORY = ("--fault", f"{STAGE}.gpu=oom@0.5")


@contextmanager
def standing(setting: Setting) -> Iterator[tuple[Preloaded, Client]]:
    """Yield commands, on a cluster of their own with the device, and a client of that cluster."""
    variables = {"REPLI_GPU_DEVICE": setting.device, "REPLI_RETRY_BELOW": "1"}
    folder = setting.folder / "standing"
    with standing_cluster(folder, **variables) as known:
        environ = {**environment(folder), **known, **variables}
        with Preloaded(environ, setting.folder) as commands, _client(known["REPLI_DASK_ADDRESS"]) as client:
            yield commands, client


def memory(setting: Setting, commands: Preloaded) -> bool:
    """Take the card's memory during a run, give it back, and heal; return whether nothing was lost."""
    shop = Shop(commands, setting.folder / "memory")
    faults = SHORT_OF_MEMORY if setting.is_emulated else ()
    with _taker(setting) as take:
        begun = shop.begin("run", setting.manifest, *setting.batches, *faults, "--json")
        _wait_for(begun, lambda: results(shop.store, "fetch") > 0)
        setting.tell(f"memory: taken: {take()}")
        _wait_for(begun, lambda: results(shop.store, STAGE) >= setting.items * SHARE_UNDER_PRESSURE)
    setting.tell("memory: given back")
    summary = begun.json()
    short = sum(1 for _ in failures(shop.store, "OutOfMemory"))
    setting.tell(f"memory: {_said(summary)}; {short} attempts ran out of memory; rungs {summary['rungs'][STAGE]}")
    healed_s, tries = _heal(setting, shop)
    healed = counted(shop.store)
    setting.tell(f"memory: healed in {healed_s:.0f} s and {tries} runs of reprocess: {healed}")
    is_kept = summary["stored"] == setting.items and not improvable(shop.store, STAGE)
    setting.keep(
        "memory",
        {"summary": summary, "out_of_memory": short, "healed_s": healed_s, "tries": tries, "is_kept": is_kept},
    )
    if not short:
        setting.tell("memory: nothing ran out; the card's worker had all that it needed, so this proves nothing")
    return is_kept


def poison(setting: Setting, commands: Preloaded, client: Client) -> bool:
    """Poison a process that works with the card, during a run; return whether nothing was lost and it was replaced."""
    shop = Shop(commands, setting.folder / "poison")
    begun = shop.begin("run", setting.manifest, *setting.batches, "--json")
    _wait_for(begun, lambda: results(shop.store, STAGE) > 0)
    worker = client.run_on_scheduler(_card_worker)
    pid = client.run(os.getpid, workers=[worker])[worker]
    error = client.run(_pretend_sticky_error if setting.is_emulated else _make_sticky_error, workers=[worker])[worker]
    done = results(shop.store, STAGE)
    setting.tell(f"poison: process {pid}, after {done} of {setting.items} items: {error}")
    summary = begun.json()
    is_replaced = pid not in client.run(os.getpid, on_error="ignore").values()
    setting.tell(f"poison: {_said(summary)}; the process {'was replaced' if is_replaced else 'lives on'}")
    is_kept = summary["stored"] == setting.items
    setting.keep("poison", {"summary": summary, "error": error, "after": done, "is_replaced": is_replaced})
    return is_kept and is_replaced


def _taker(setting: Setting) -> AbstractContextManager[Callable[[], str]]:
    """Return a context whose function takes the card's memory; where there is none, an injected fault does."""
    return nullcontext(lambda: "nothing, without a card") if setting.is_emulated else memory_taker()


def _heal(setting: Setting, shop: Shop) -> tuple[float, int]:
    """Run `reprocess` as a schedule does, until no item can get better; return the seconds and the number of runs."""
    started, tries = time.monotonic(), 0
    while improvable(shop.store, STAGE) and time.monotonic() - started < HEALS_WITHIN_S:
        outcome = shop.json("reprocess")
        tries += 1
        setting.tell(f"memory: reprocess upgraded {outcome['upgraded']} of {outcome['claimed']}")
        if not outcome["upgraded"]:
            time.sleep(5.0)
    return time.monotonic() - started, tries


def _wait_for(command: Command, is_so: Callable[[], bool]) -> None:
    """Wait until something is so; a command that ends before is not waited for."""
    deadline = time.monotonic() + BEGINS_WITHIN_S
    while not is_so() and not command.has_ended() and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_S)


def _said(summary: dict[str, Any]) -> str:
    lost = summary["items"] - summary["stored"]
    return f"{summary['stored']} of {summary['items']} stored, {lost} lost, {summary['seconds']:.1f} s"


def _client(address: str) -> Client:
    return Client(address, set_as_default=False)


def _card_worker(dask_scheduler: Any) -> str:
    """Return the address of a worker that carries the card."""
    return str(next(address for address, worker in dask_scheduler.workers.items() if worker.resources.get("GPU")))


def _make_sticky_error() -> str:
    """Fail an assertion on the card: every later call of this process fails."""
    import torch

    try:
        torch.zeros(1, device="cuda")[torch.tensor([1], device="cuda")].cpu()
    except Exception as error:
        return str(error).partition("\n")[0]
    return "no error"


def _pretend_sticky_error() -> str:
    """Make every later call of this process fail, as after a sticky error."""
    from repli.tasks.models.image_classifier import ImageClassifier

    message = "CUDA error: device-side assert triggered"

    def classify(*_: object) -> NoReturn:
        raise RuntimeError(message)

    ImageClassifier.classify = classify  # type: ignore[assignment,method-assign]
    return f"{message} (pretended)"
