"""A command on a terminal of its own, as its user sees it, and Ctrl-C typed at it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Self

import psutil

ESCAPE = "\x1b"
LIMIT_S = 200.0
LOOK_EVERY_S = 0.05


class OnTerminal:
    """One command whose input and output are a terminal of this many columns. It leads the terminal's foreground."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], columns: int = 120) -> None:
        self._controller, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.process = subprocess.Popen(
            command,
            env={"TERM": "xterm-256color", **_without_size(environ)},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(terminal)
        self.raw = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._controller)

    def read_until(self, words: str) -> None:
        """Read what it writes until these words are among it."""
        deadline = time.monotonic() + LIMIT_S
        while words not in self.raw:
            assert self._read() and time.monotonic() < deadline, f"it never says {words!r}: {self.raw[-2000:]}"

    def type_ctrl_c(self, times: int = 1) -> None:
        """The terminal sends SIGINT to all processes of its foreground, and drops what it has not shown yet.

        So what is written after one is read for a while before the next.
        """
        for _ in range(times):
            os.write(self._controller, b"\x03")
            deadline = time.monotonic() + 0.1
            while time.monotonic() < deadline and self._read(0.02):
                pass

    def read_to_its_end(self) -> int:
        """Read what it writes until it ends; its exit status."""
        deadline = time.monotonic() + LIMIT_S
        while self._read():
            assert time.monotonic() < deadline, f"it does not end: {self.raw[-2000:]}"
        return self.process.wait(LIMIT_S)

    def lines(self) -> list[str]:
        """The lines that a user sees at the end, but for empty ones."""
        screen, row, is_rewritten = [""], 0, False
        for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", self.raw):
            if piece == "\n":
                row += 1
                screen += [""] * (row + 1 - len(screen))
            elif up := re.fullmatch(r"\x1b\[(\d*)A", piece):
                row = max(0, row - int(up[1] or 1))
            elif piece == "\x1b[2K":
                screen[row] = ""
            elif piece == "\r":
                is_rewritten = True
                continue
            elif not piece.startswith(ESCAPE):
                screen[row] = piece + screen[row][len(piece) :] if is_rewritten else screen[row] + piece
            is_rewritten = False
        return [line.strip() for line in screen if line.strip()]

    def frames(self) -> list[str]:
        """All that was ever on its line, in turn, without colours."""
        return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", part).strip() for part in re.split("[\r\n]", self.raw)]

    def _read(self, wait_s: float = 0.1) -> bool:
        """Read a piece, and return whether there may be more."""
        if not select.select([self._controller], [], [], wait_s)[0]:
            return self.process.poll() is None
        try:
            piece = os.read(self._controller, 65536)
        except OSError:  # nobody has the terminal any more
            return False
        self.raw += piece.decode(errors="replace")
        return bool(piece)


def alive_after(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that are alive this long after the call. The dead ones that wait for init to note it are not.

    Looks are counted, and not seconds: a machine that stands still meanwhile gives nothing the time to end.
    """
    looks = round(seconds / LOOK_EVERY_S)
    while (alive := [process for process in processes if _is_alive(process)]) and looks:
        time.sleep(LOOK_EVERY_S)
        looks -= 1
    return alive


def processes_of(home: object) -> list[psutil.Process]:
    """The processes of the commands on this home, however they were started."""
    return [process for process in psutil.process_iter() if _is_alive(process) and _home_of(process) == str(home)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _home_of(process: psutil.Process) -> str | None:
    try:
        home: str | None = process.environ().get("REPLI_HOME")
    except psutil.Error:
        return None
    return home


def _without_size(environ: Mapping[str, str]) -> dict[str, str]:
    """Leave out the size of another terminal: pytest-xdist sets one, which goes before the real size."""
    return {name: value for name, value in environ.items() if name not in {"COLUMNS", "LINES"}}
