"""A command that is interrupted says one line, and nothing of it is left: real processes, on a real terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

from tests.support.stopwatch import Stopwatch
from tests.support.terminal import OnTerminal, alive_after

LIMIT_S = 3.0
"""A second of grace, and the start of an interpreter on a busy machine."""

COMMAND = r"""
import os, signal, subprocess, sys, time
from repli.flows.server.interrupt import ended_by

child = "import os, subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
with ended_by(signal.SIGINT, signal.SIGTERM, status=130, line="it is over"):
    for is_apart in (True, False):
        subprocess.Popen([sys.executable, "-c", child + r"; os.write(1, b'begun\n'); time.sleep(60)"],
                         start_new_session=is_apart, stderr=subprocess.DEVNULL)
    {body}
print("after the block")
"""

POLITE = """
    try:
        time.sleep(60)
    finally:
        print("noise"); sys.stderr.write("noise")
        open(sys.argv[1], "w").write("given back")
"""
SWALLOWS = """
    while True:
        try:
            time.sleep(60)
        except BaseException as error:
            print("noise", error)
"""
HANGS = """
    try:
        time.sleep(60)
    finally:
        time.sleep(60)
"""


def code_of(body: str) -> str:
    return dedent(COMMAND).replace("    {body}\n", body)


@pytest.mark.parametrize("body", [POLITE, SWALLOWS, HANGS], ids=["polite", "swallows", "hangs"])
@pytest.mark.parametrize("presses", [1, 3])
def test_ctrl_c_ends_all_of_it_in_one_line(tmp_path: Path, body: str, presses: int) -> None:
    """Whatever the block makes of the interrupt, and if Ctrl-C is pressed again: processes with a session of their own,
    and the processes that those started, end too."""
    note = tmp_path / "note"
    with OnTerminal([sys.executable, "-c", code_of(body), str(note)], dict(os.environ)) as command:
        command.read_until("begun\r\nbegun\r\n")
        family = psutil.Process(command.process.pid).children(recursive=True)
        assert len(family) == 4
        with Stopwatch() as stopwatch:
            command.type_ctrl_c(presses)
            status = command.read_to_its_end()
        assert stopwatch.seconds < LIMIT_S
    assert (status, alive_after(family, seconds=1)) == (130, [])
    assert command.lines()[2:3] == ["it is over"]
    assert "noise" not in command.raw and "Traceback" not in command.raw and "after" not in command.raw
    assert note.exists() == (body == POLITE), "the block has time to give back what it holds"


def test_another_signal_ends_it_too_and_pipes_get_no_escape_codes(tmp_path: Path) -> None:
    """SIGTERM where it is named; stderr is a pipe and holds the line alone."""
    process = subprocess.Popen(
        [sys.executable, "-c", code_of(POLITE), str(tmp_path / "note")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    for _ in range(2):
        assert process.stdout.readline() == "begun\n"
    with Stopwatch() as stopwatch:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert stopwatch.seconds < LIMIT_S
    assert (process.returncode, out, err) == (130, "", "it is over\n")


def test_the_handlers_are_those_of_before_after_the_block() -> None:
    """Or the one that the caller names."""
    code = """
    import signal
    from repli.flows.server.interrupt import ended_by

    before = signal.getsignal(signal.SIGINT)
    with ended_by(signal.SIGINT, status=1, line="", then=signal.SIG_IGN):
        with ended_by(signal.SIGINT, status=2, line=""):
            inner = signal.getsignal(signal.SIGINT)
        outer = signal.getsignal(signal.SIGINT)
    print(len({before, inner, outer}), signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout == "3 True\n"
