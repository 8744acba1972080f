"""Another program on the card: ``python -m tests.benchmarks.card_memory`` takes all memory that is free.

It says that it is ready, waits for a line on its standard input, takes all, and prints how much it holds. It tries
again and again, so that whatever others give back is taken too. It gives all back when its standard input closes.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SMALLEST_MIB = 8
AGAIN_AFTER_S = 0.1


@contextmanager
def memory_taker() -> Iterator[Callable[[], str]]:
    """Yield a function that takes all free memory of the first card, and says how much; the block's end gives it back.

    Torch is imported before the block, so that the function takes no time.
    """
    words = [sys.executable, "-m", "tests.benchmarks.card_memory"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        orders, answers = process.stdin, process.stdout

        def answer() -> str:
            line = answers.readline()
            assert line, "the process that takes the card's memory has died"
            return line.strip()

        def take() -> str:
            orders.write("take\n")
            orders.flush()
            return answer()

        answer()  # it is ready
        try:
            yield take
        finally:
            orders.close()
            process.wait(30)


def main() -> None:
    """Take and hold, until standard input closes."""
    import torch

    torch.cuda.init()
    print("ready", flush=True)
    if not os.read(sys.stdin.fileno(), 64):  # unbuffered: `select` sees only what has not been read
        return
    held: list[Any] = []
    is_told = False
    while not select.select([sys.stdin], [], [], AGAIN_AFTER_S)[0]:
        size_mib = torch.cuda.mem_get_info(0)[0] // 2**20
        while size_mib >= SMALLEST_MIB:
            try:
                held.append(torch.empty(size_mib * 2**20, dtype=torch.uint8, device="cuda:0"))
            except torch.OutOfMemoryError:
                size_mib //= 2
        if not is_told:
            is_told = True
            print(f"{sum(block.numel() for block in held) / 2**30:.1f} GiB", flush=True)


if __name__ == "__main__":
    main()
