"""Seconds for promises like "ends within two seconds", on a machine that others use too."""

from __future__ import annotations

import threading
import time
from typing import Self

TICK_S = 0.01


class Stopwatch:
    """Counts short sleeps of a thread, while the block runs.

    A machine that is busy, or that stands still for a while, makes the sleeps longer too: what that costs does not
    count. Nor does what holds this interpreter's lock: it is for what other processes do, or threads that wait.
    """

    def __init__(self) -> None:
        self._ticks = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._count, name="stopwatch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        """Seconds since the block began, until its end."""
        return self._ticks * TICK_S

    def _count(self) -> None:
        while not self._is_over.is_set():
            time.sleep(TICK_S)
            self._ticks += 1
