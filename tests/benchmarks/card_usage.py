"""How busy a card is: `nvidia-smi`, asked five times a second while a block runs."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean

EVERY_MS = 200
QUERY = ["nvidia-smi", "--query-gpu=timestamp,utilization.gpu,memory.used", "--format=csv,noheader,nounits", "-lms"]
TIMESTAMP = "%Y/%m/%d %H:%M:%S.%f"
"""The driver's, in local time: when a line is read says little, since a pipe may hold it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the driver says: the share of the last moments in which a kernel ran, and the memory in use."""

    at: datetime
    busy: float
    used_mib: int


@contextmanager
def sampled(file: Path) -> Iterator[list[Sample]]:
    """Yield the samples of the first card, which are complete after the block, and write them to a CSV file."""
    samples: list[Sample] = []
    with subprocess.Popen([*QUERY, str(EVERY_MS), "--id=0"], stdout=subprocess.PIPE, text=True) as process:
        reader = threading.Thread(target=_read, args=(process, samples))
        reader.start()
        try:
            yield samples
        finally:
            process.terminate()
            reader.join()
    lines = (f"{sample.at.isoformat()},{sample.busy:.2f},{sample.used_mib}\n" for sample in samples)
    file.write_text("at,busy,used_mib\n" + "".join(lines), encoding="utf-8")


def busy_share(samples: list[Sample], start: datetime, end: datetime) -> float | None:
    """Return the mean share of busy time between two moments; None where there is no sample."""
    within = [sample.busy for sample in samples if start <= sample.at <= end]
    return mean(within) if within else None


def _read(process: subprocess.Popen[str], samples: list[Sample]) -> None:
    assert process.stdout
    for line in process.stdout:
        at, busy, used = (field.strip() for field in line.split(","))
        moment = datetime.strptime(at, TIMESTAMP).astimezone(UTC)
        samples.append(Sample(at=moment, busy=float(busy) / 100, used_mib=int(used)))
