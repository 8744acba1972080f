"""What is automated happens: a webhook hears of what failed, and a deployment that runs once at a time does so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.support.prefect_api import ENDED
from tests.support.serving import Serving, until

pytestmark = pytest.mark.timeout(900)


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server on loopback: its address, and what was posted to it."""
    posted: list[dict[str, str]] = []

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            """Say nothing on the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Take) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", posted
        server.shutdown()


def make_webhook_block(served: Serving, url: str) -> str:
    """A notification block of Prefect's that posts there, as a person makes it in the UI; its id."""
    type_id = served.ask("block_types/slug/custom-webhook")["id"]
    [schema, *_] = served.ask("block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [type_id]}}})
    data = {"name": "night", "url": url, "json_data": {"subject": "{{subject}}", "body": "{{body}}"}}
    document = {"name": "night", "block_type_id": type_id, "block_schema_id": schema["id"], "data": data}
    return str(served.ask("block_documents/", document)["id"])


def tell(served: Serving, automation: str, block_id: str) -> None:
    """Have an automation of ours send a notification, as a person chooses it in the UI."""
    [found] = [one for one in served.ask("automations/filter", {}) if one["name"] == automation]
    words = {"subject": "{{ flow.name }} failed", "body": "{{ flow_run.state.message }}"}
    action = {"type": "send-notification", "block_document_id": block_id, **words}
    kept = {name: found[name] for name in ("name", "description", "enabled", "trigger")}
    served.ask(f"automations/{found['id']}", {**kept, "actions": [action]}, method="PUT")


@pytest.mark.campaign
@pytest.mark.server_errors("to drill on", "there is no manifest")
def test_who_is_to_be_told_hears_of_what_failed(served: Serving, tmp_path: Path) -> None:
    """An `enrich` of what is not there, and a drill on an empty store, each reach a webhook with the reason."""
    with webhook() as (url, posted):
        block_id = make_webhook_block(served, url)
        for automation in ("repli: a run failed", "repli: the drill failed"):
            tell(served, automation, block_id)
        served.start("enrich", source=str(tmp_path / "nowhere.jsonl"))
        drill = served.deployment("drill")
        elsewhere = {"env": {"REPLI_DATABASE_URL": f"sqlite:///{tmp_path}/empty.db"}}
        served.ask(f"deployments/{drill['id']}/create_flow_run", {"parameters": {}, "job_variables": elsewhere})
        until(lambda: len(posted) >= 2, 300, "the webhook was not told of both")
    told = {one["subject"]: one["body"] for one in posted}
    assert told.keys() == {"enrich failed", "drill failed"}
    assert "nowhere.jsonl" in told["enrich failed"]
    assert "no items to drill on" in told["drill failed"]


@pytest.mark.campaign
def test_reprocess_runs_once_at_a_time(served: Serving) -> None:
    """Of two that are started at once, the second waits for its place, and has it once the first has ended."""
    both = [served.start("reprocess") for _ in range(2)]
    until(lambda: all(served.flow_run(one)["state_type"] in ENDED for one in both), 400, "not both came to their end")
    first, second = sorted((served.flow_run(one) for one in both), key=lambda run: str(run["start_time"]))
    assert (first["state_type"], second["state_type"]) == ("COMPLETED", "COMPLETED")
    assert second["start_time"] >= first["end_time"]
    states = served.ask(f"flow_run_states/?flow_run_id={second['id']}")
    assert "AwaitingConcurrencySlot" in {state["name"] for state in states}
