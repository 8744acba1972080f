"""The end of a command's process: as Python would end it, seen from outside."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ENDINGS = {
    "end_process": "end_process(ended)",
    "Python": "raise",
}
PROGRAM = """
import atexit, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from repli.flows.cli.process_end import end_process

atexit.register(lambda: print("an exit handler"))
ThreadPoolExecutor().submit(lambda: time.sleep(0.2) or print("a thread"))
try:
    sys.stdout.write("not flushed ")
    sys.stderr.write("nor this")
    sys.exit({status})
except SystemExit as ended:
    {ending}
"""


def end(status: str, ending: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    program = PROGRAM.format(status=status, ending=ENDINGS[ending])
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=stdout, stderr=subprocess.PIPE, text=True, env=buffered
    )


@pytest.mark.parametrize("status", ["", "0", "3", "-1", "256", "'a message'"])
def test_a_process_ends_as_python_ends_it(status: str) -> None:
    """Its status and its output are the same, those of its exit handlers and threads too, into a pipe as well."""
    ends = {}
    for ending in ENDINGS:
        process = end(status, ending)
        out, err = process.communicate(timeout=60)
        ends[ending] = process.returncode, out, err
    assert ends["end_process"] == ends["Python"]
    assert ends["Python"][1] == "not flushed a thread\nan exit handler\n"


def test_a_reader_that_is_gone_is_told_as_python_tells_it() -> None:
    """Status 120, and a message: output was lost."""
    ends = {}
    reader, writer = os.pipe()
    os.close(reader)
    for ending in ENDINGS:
        with end("0", ending, writer) as process:
            assert process.stderr
            ends[ending] = process.stderr.read(), process.wait(60)
    os.close(writer)
    assert ends["end_process"] == ends["Python"]
    assert ends["Python"][1] == 120
    assert "BrokenPipeError" in ends["Python"][0]
