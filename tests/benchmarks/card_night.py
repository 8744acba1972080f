"""A healthy night with the card against the same night without it, and the share of time that the card is busy."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import runs
from tests.benchmarks.card_setting import Setting
from tests.benchmarks.card_usage import Sample, busy_share, sampled
from tests.support.command_line import command, environment

AIM = 4.0
"""Times as fast with the card as without it, by the seconds of the flow."""
WITHOUT_CARD = ("--force", "classify_image=cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """One `repli run` in a home of its own.

    Args:
        seconds: Of the flow alone.
        whole_s: Of the command, its start and its end included.
        busy: The share of the flow's time in which the card worked; None where nobody looked.
        peak_mib: The largest memory of the card in use.
    """

    seconds: float
    whole_s: float
    busy: float | None
    peak_mib: int | None
    summary: dict[str, Any]


def compare(setting: Setting) -> bool:
    """Run both nights, tell and keep them, and return whether nothing was lost and the aim was reached.

    A rehearsal has no aim.
    """
    with_card = _night(setting, "with-card")
    without = _night(setting, "without-card", *WITHOUT_CARD)
    ratio = without.seconds / with_card.seconds
    busy = "not measured" if with_card.busy is None else f"{with_card.busy:.0%} of the flow's time"
    setting.tell(f"the card is busy: {busy}")
    whole = without.whole_s / with_card.whole_s
    setting.tell(f"with the card {ratio:.2f} x as fast, aim {AIM:g}; as whole commands {whole:.2f} x")
    setting.keep("night", {"with_card": asdict(with_card), "without_card": asdict(without), "ratio": ratio, "aim": AIM})
    is_whole = all(night.summary["stored"] == setting.items for night in (with_card, without))
    return is_whole and (setting.is_emulated or ratio >= AIM)


def warm_up(setting: Setting, manifest: Path) -> None:
    """Run once what the machine then has: files in memory, and models in the form in which they are kept."""
    for options in ((), WITHOUT_CARD):
        _run(setting, "warm-up", manifest, *options, "--refresh")


def _night(setting: Setting, name: str, *options: str) -> Night:
    looking = nullcontext(list[Sample]()) if setting.is_emulated else sampled(setting.out / f"{name}.csv")
    started = time.monotonic()
    with looking as samples:
        summary = _run(setting, name, setting.manifest, *options)
    whole_s = time.monotonic() - started
    with Database(f"sqlite:///{setting.folder / name / 'repli.db'}").read() as connection:
        start, end = connection.execute(sa.select(runs.c.started_at, runs.c.finished_at)).one()
    night = Night(
        seconds=summary["seconds"],
        whole_s=whole_s,
        busy=busy_share(samples, start, end),
        peak_mib=max((sample.used_mib for sample in samples), default=None),
        summary=summary,
    )
    rate, rungs = setting.items / night.seconds, summary["rungs"]["classify_image"]
    setting.tell(f"{name}: {night.seconds:.1f} s ({rate:.0f} items/s), whole command {whole_s:.1f} s, {rungs}")
    return night


def _run(setting: Setting, home: str, manifest: Path, *options: str) -> dict[str, Any]:
    """Run `repli run` to its end, in a home of its own, and return its summary."""
    environ = {**environment(setting.folder / home), "REPLI_GPU_DEVICE": setting.device}
    words = command("run", manifest, *setting.batches, *options, "--json")
    done = subprocess.run(words, env=environ, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"the run {home!r} ended with status {done.returncode}; its lines above say why")
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary
