"""The lines of `REPLI_DEBUG`: where the seconds of a command go."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

PROGRAM = """
import subprocess, sys
from repli.tasks.runtime import timeline
timeline.begin()
timeline.note("command", "begins")
try:
    with timeline.timed("command", "fails"):
        raise ValueError
except ValueError:
    pass
variables, descriptors = timeline.for_logged_child()
child = "from repli.tasks.runtime import timeline; timeline.note('child', 'is here')"
import os
subprocess.run(
    [sys.executable, "-c", child], stderr=subprocess.DEVNULL, env={**os.environ, **variables}, pass_fds=descriptors
)
"""


@pytest.mark.parametrize("debug", ["", "1"])
def test_each_step_is_a_line_on_the_stderr_of_the_command(debug: str) -> None:
    """Its seconds count from the command's begin, also in a child whose stderr is elsewhere; no variable, no line."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("REPLI_", "_REPLI_"))}
    environ = {**kept, "REPLI_DEBUG": debug}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environ, capture_output=True, text=True, check=True)
    lines = [re.fullmatch(r"repli \+ *(\d+\.\d\d) s  (\w+: .*)", line) for line in done.stderr.splitlines()]
    steps = [line and re.sub(r"\d\.\d\d", "…", line[2]) for line in lines]
    assert steps == (["command: begins", "command: fails (… s)", "child: is here"] if debug else [])
    seconds = [float(line[1]) for line in lines if line]
    assert seconds == sorted(seconds)
    assert all(0 < second < 60 for second in seconds)
