"""`repli.run` as a script or a notebook has it: more than once in one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import environment

pytestmark = [pytest.mark.timeout(900), pytest.mark.campaign]

SCRIPT = """
import json
import repli

shout = repli.Stage("shout", input=lambda item: item.name)


@shout.rung(time_limit_s=60, per_item=True)
def loud(name):
    return name.upper()


pipeline = repli.Pipeline([shout])

if __name__ == "__main__":
    reports = [repli.run("items.jsonl", pipeline="shouting:pipeline", database=f"sqlite:///{n}.db") for n in (1, 2)]
    print(json.dumps([report.as_json()["quality"] for report in reports]))
"""


def test_it_runs_twice_in_one_process(tmp_path: Path) -> None:
    """Each time with a server and a cluster of its own, and a report that can be read."""
    (tmp_path / "shouting.py").write_text(SCRIPT)
    (tmp_path / "items.jsonl").write_text("".join(json.dumps({"id": n, "name": n}) + "\n" for n in "abc"))
    done = subprocess.run(
        [sys.executable, "shouting.py"],
        cwd=tmp_path,
        env={**environment(tmp_path / "home"), "REPLI_PIPELINE": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [{"1.0": 3}] * 2
