"""Processes that are not to outlive the one that started them, however that ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


def when_parent_ends(act: Callable[[], None]) -> None:
    """Call `act` in a thread once standard input closes, which it does by itself when the parent process ends."""

    def wait() -> None:
        while os.read(0, 4096):  # sys.stdin has a lock, which a thread that waits would keep from the interpreter's end
            pass
        act()

    threading.Thread(target=wait, name="parent", daemon=True).start()
