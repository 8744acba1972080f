"""Watch for the end of the parent process, so that a child does not outlive it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


def when_parent_ends(act: Callable[[], None]) -> None:
    """Call `act` in a thread once standard input closes: the system closes it when the parent process ends."""

    def wait() -> None:
        while os.read(0, 4096):  # not sys.stdin, whose lock a waiting thread would hold at the interpreter's end
            pass
        act()

    threading.Thread(target=wait, name="parent", daemon=True).start()
