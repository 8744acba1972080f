"""`REPLI_DEBUG=1`: each process of a real run says where its seconds go."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.command_line import Repli, write_manifest

pytestmark = pytest.mark.timeout(600)

LINE = re.compile(r"repli \+ *(\d+\.\d\d) s  (command|Prefect server|fork server|worker|flow)( \d+)?: (.+)")
STAGES = ["fetch", "validate", "extract_text", "classify_image", "embed_text", "store"]


def test_every_process_of_a_run_says_what_it_does(repli: Repli, tmp_path: Path) -> None:
    """Server and workers too, whose stderr is elsewhere; one batch has one worker. Nothing else changes."""
    done = repli("run", write_manifest(tmp_path / "items", 3), REPLI_DEBUG="1")
    assert done.returncode == 0, done.stderr
    said = r"3 of 3 items stored, mean quality 1\.000, expected accuracy 0\.\d+, 0 degraded, 0\s+failed"
    assert re.match(said, done.stdout)
    lines = [line for line in map(LINE.fullmatch, done.stderr.splitlines()) if line]
    assert {line[2] for line in lines} == {"command", "Prefect server", "fork server", "worker", "flow"}
    assert len({line[3] for line in lines if line[2] == "worker"}) == 1
    run = [line[4].partition(":")[0] for line in lines if "batch 1" in line[4]]
    assert run == STAGES
    assert lines[-1][4] == "ended"
    assert float(lines[0][1]) < float(lines[-1][1])
