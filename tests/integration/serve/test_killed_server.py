"""`repli serve` whose Prefect server is killed: it is started again, until it ends too often in a row."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from repli.flows.server.private_server import MAX_RESTARTS
from tests.support.command_line import write_manifest
from tests.support.prefect_api import ENDED
from tests.support.server_outage import PIPELINE, answers, process_of_server
from tests.support.serving import Serving, until

ITEMS = 40
AGAIN = "is started again"
ENDED_AGAIN = "the Prefect server ended"


@pytest.mark.campaign
@pytest.mark.timeout(1200)
@pytest.mark.server_errors(r"^worker\.log: ")  # Prefect's worker logs there that it has lost the server
def test_a_killed_server_is_started_again_until_it_ends_too_often(tmp_path: Path) -> None:
    """A run amid the first kill ends as completed; after the last kill one line says where the log is."""
    manifest = write_manifest(tmp_path / "items", ITEMS, with_image=lambda number: False)
    with Serving(tmp_path / "home", REPLI_PIPELINE=PIPELINE) as serving:
        run = serving.start("enrich", source=str(manifest), batch_size=4)
        until(lambda: serving.flow_run(run)["state_type"] == "RUNNING")
        family = serving.processes()
        kill(serving)
        assert serving.read_until(AGAIN).startswith("the Prefect server ended, and is started again; see ")
        until(lambda: answers(serving.api_url), within_s=240)
        ended = until(lambda: (found := serving.flow_run(run))["state_type"] in ENDED and found, within_s=240)
        assert ended["state_type"] == "COMPLETED", ended["state"]["message"]

        said = AGAIN
        while AGAIN in said:  # a restart that was a minute ago is not counted
            kill(serving)
            said = serving.read_until(ENDED_AGAIN)
        status, rest = serving.ended()
        assert (status, rest) == (1, "")
        assert (
            f"the Prefect server ended {MAX_RESTARTS + 1} times in a row; see {tmp_path}/home/prefect/server.log"
            in said
        )
        _, alive = psutil.wait_procs(family, timeout=60)
        assert alive == []


def kill(serving: Serving) -> None:
    until(lambda: process_of_server(serving.pid)).kill()
