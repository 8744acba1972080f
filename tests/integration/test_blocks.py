"""Blocks as a person uses them: registered, filled in on a real Prefect server, obeyed by the next run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from distributed import Client
from prefect.client.base import PrefectHttpxSyncClient
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import URL

from repli.blocks import EnrichmentPolicy
from repli.flows.config.resolve import configured_run, configured_settings
from repli.tasks.fallback import UsageError
from repli.tasks.fallback.policy import NO_OVERRIDES
from repli.tasks.storage import counts
from repli.tasks.storage.database import Database
from tests.support.command_line import Repli, environment, write_manifest
from tests.support.default_pipeline import STAGE_NAMES
from tests.support.preloaded import Preloaded, Shop
from tests.support.progress_lines import without_progress

pytestmark = pytest.mark.timeout(600)

SECRET = "hunter2-kept-to-itself"
KINDS = ("item-store", "enrichment-policy", "repli-cluster", "repli-text-model")
NAMES = ("Item Store", "Enrichment Policy", "Repli Cluster", "Repli Text Model")
LEAVE_OUT_NOTHING = {"cpu": 0.5, "rules": 0.45, "skip": 0.4}
DEPLOYED = """
import sys
from repli.flows.enrich import enrich
state = enrich(sys.argv[1], return_state=True)
print(state.message)
sys.exit(not state.is_completed())
"""
"""What a worker does for a deployment: the flow by itself, with no command line around it."""


class Server:
    """The Prefect server's API, as its UI uses it: what is sent is kept, and no Python of ours looks at it first."""

    def __init__(self, api: httpx.Client) -> None:
        self.api = api

    def keep(self, slug: str, data: dict[str, Any]) -> None:
        """Save the block of this type that runs go by, or what is to change in it."""
        if document := self._document(slug):
            self.api.patch(f"/block_documents/{document['id']}", json={"data": data}).raise_for_status()
            return
        kind = self.api.get(f"/block_types/slug/{slug}").raise_for_status().json()["id"]
        of_type = {"block_schemas": {"block_type_id": {"any_": [kind]}}}
        schema = self.api.post("/block_schemas/filter", json=of_type).raise_for_status().json()[0]["id"]
        document = {"name": "default", "block_type_id": kind, "block_schema_id": schema, "data": data}
        self.api.post("/block_documents/", json=document).raise_for_status()

    def drop(self, slug: str) -> None:
        if document := self._document(slug):
            self.api.delete(f"/block_documents/{document['id']}").raise_for_status()

    def all(self, what: str, **filters: Any) -> list[dict[str, Any]]:
        """Everything that the server shows of a kind."""
        found: list[dict[str, Any]] = []
        while page := self.api.post(f"/{what}/filter", json={"offset": len(found), **filters}).json():
            found += page
        return found

    def events(self) -> list[dict[str, Any]]:
        """The last events, which come in pages of at most 50."""
        page = self.api.post("/events/filter", json={"filter": {}, "limit": 50}).raise_for_status().json()
        found: list[dict[str, Any]] = page["events"]
        while page["next_page"]:
            page = self.api.get(page["next_page"]).raise_for_status().json()
            found += page["events"]
        return found

    def _document(self, slug: str) -> dict[str, Any]:
        answer = self.api.get(f"/block_types/slug/{slug}/block_documents/name/default")
        return dict(answer.json()) if answer.is_success else {}


@pytest.fixture(scope="module")
def registered(standing: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """What ``prefect block register -m blocks`` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "block", "register", "-m", "blocks"],
        env={**environment(tmp_path_factory.mktemp("home")), **standing},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.fixture
def server(standing: dict[str, str], registered: str) -> Iterator[Server]:
    """The shared server, without blocks before and after."""
    with PrefectHttpxSyncClient(base_url=standing["PREFECT_API_URL"], raise_on_all_errors=False) as api:
        server = Server(api)
        yield server
        for slug in KINDS:
            server.drop(slug)


@pytest.fixture
def shop(preloaded: Preloaded, home: Path) -> Shop:
    return Shop(preloaded, home)


def deployed(standing: dict[str, str], manifest: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`enrich` on its own, told of the Prefect server alone."""
    known = {name: value for name, value in standing.items() if name.startswith("PREFECT_")}
    env = {name: value for name, value in environment(manifest.parent).items() if name != "REPLI_HOME"}
    return subprocess.run(
        [sys.executable, "-c", DEPLOYED, manifest],
        env={**env, **known, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_one_command_registers_all_of_them(registered: str, server: Server) -> None:
    """The server knows each with its description, its form, and which of its fields is secret."""
    for slug, name in zip(KINDS, NAMES, strict=True):
        kind = server.api.get(f"/block_types/slug/{slug}").raise_for_status().json()
        assert (kind["name"], name in registered) == (name, True)
        assert "Repli" in kind["description"]


def test_a_penalty_that_is_changed_in_the_ui_changes_the_next_run(shop: Shop, server: Server, tmp_path: Path) -> None:
    """The same fault on new items costs what the block says then; the record of the run says what it went by."""

    def quality(name: str) -> dict[str, int]:
        manifest = write_manifest(tmp_path / name, 3)
        text = manifest.read_text().replace("item-", f"{name}-")
        manifest.write_text(text)
        done = shop.json("run", manifest, "--fault", "classify_image.gpu=error")
        assert done["rungs"]["classify_image"] == {"cpu": 3}
        return dict(done["quality"])

    assert quality("before") == {"0.9": 3}
    server.keep("enrichment-policy", {"chains": {"classify_image": LEAVE_OUT_NOTHING}})
    assert quality("changed") == {"0.5": 3}
    shown = shop.json("show", "changed-1")
    assert (shown["quality"], shown["stages"]["classify_image"]["penalty"]) == (0.5, 0.5)
    assert "cpu 0.5" in shop.json("status")["last_run"]["options"]["policy"]
    server.keep("enrichment-policy", {"chains": {"classify_image": {**LEAVE_OUT_NOTHING, "cpu": 0.6}}})
    assert quality("again") == {"0.6": 3}


def test_a_rung_that_is_left_out_is_not_called(
    shop: Shop, repli: Repli, server: Server, standing: dict[str, str], tmp_path: Path
) -> None:
    """The item falls past it, to the next one; and it cannot be forced, which is told in one line."""
    server.keep("enrichment-policy", {"chains": {"classify_image": {"cpu": 0}}})
    manifest = write_manifest(tmp_path / "items", 2)
    manifest.write_text(manifest.read_text().replace("Thing number", "Folding chair"))  # a class for `rules`
    done = shop.json("run", manifest, "--fault", "classify_image.gpu=error")
    assert (done["rungs"]["classify_image"], done["quality"]) == ({"rules": 2}, {"0.76": 2})
    attempts = shop.json("show", "item-1")["stages"]["classify_image"]["attempts"]
    assert [attempt["rung"] for attempt in attempts] == ["gpu", "rules"]
    refused = repli("run", manifest, "--refresh", "--force", "classify_image=cpu", **standing)
    assert (refused.returncode, without_progress(refused.stderr).count("\n")) == (1, 1), refused.stderr
    assert "classify_image has no rung 'cpu'; choose from gpu, rules, skip" in refused.stderr


def test_breakers_and_the_queue_are_those_of_the_block(shop: Shop, server: Server, tmp_path: Path) -> None:
    """One failure opens the breaker, and all that is not whole is queued: unless a variable says otherwise."""
    data = {"breakers": {"classify_image": {"gpu": {"failures": 1}}}, "retry_queue": {"below": 1}}
    server.keep("enrichment-policy", data)
    manifest = write_manifest(tmp_path / "items", 4)
    options = ("--batch-size", "4", "--fault", "classify_image.gpu=timeout")
    assert shop.json("run", manifest, *options)["queued"] == 4
    [gpu] = [view for view in shop.json("breakers") if view["name"] == "classify_image.gpu"]
    assert (gpu["state"], gpu["failures"]) == ("open", 1)
    other = Shop(shop.forker, tmp_path / "other")
    assert other.json("run", manifest, *options, REPLI_RETRY_BELOW="0.8")["queued"] == 0


def test_what_cannot_work_is_refused_by_the_next_run(shop: Shop, server: Server, tmp_path: Path) -> None:
    """The server keeps whatever its form sends; the run says in one line which block is wrong, and does nothing."""
    manifest = write_manifest(tmp_path / "items", 1, with_image=lambda number: False)
    for penalties, why in (
        ({"cpu": 1.5}, "chains.classify_image.cpu: Input should be less than or equal to 1"),
        ({"skip": 0}, "policy: classify_image is optional, so skip must be its last rung"),
        ({"tpu": 0.5}, "chains.classify_image: there is no 'tpu' here; choose from gpu, cpu, rules, skip"),
    ):
        server.keep("enrichment-policy", {"chains": {"classify_image": penalties}})
        done = shop.repli("run", manifest, "--json")
        assert (done.returncode, done.stdout) == (1, "")
        last = done.stderr.splitlines()[-1]
        assert last.startswith("repli: ")
        assert f"the block enrichment-policy/default is invalid: {why}" in last
        server.drop("enrichment-policy")
    assert shop.json("status")["items"] == 0


def test_a_block_is_saved_by_python_as_by_the_form(server: Server, standing: dict[str, str], tmp_path: Path) -> None:
    """What is saved is what a run reads, and what is not the person's to set stays as declared."""
    environ = {"REPLI_HOME": str(tmp_path)}
    with temporary_settings({PREFECT_API_URL: standing["PREFECT_API_URL"]}):
        assert configured_run(environ=environ)[0].settings.policy == NO_OVERRIDES
        EnrichmentPolicy(chains={"classify_image": LEAVE_OUT_NOTHING}).save("default")
        read = configured_run(environ=environ)[0].settings
        assert read.policy.chains["classify_image"][1] == ("cpu", "0.5")
        assert (read.dask_address, read.retry.below) == (None, 0.8)


def test_a_variable_goes_before_a_block(server: Server, standing: dict[str, str], tmp_path: Path) -> None:
    """Each by itself: what is not set, or empty, is the block's to say."""
    server.keep("item-store", {"database_url": f"sqlite:///{tmp_path}/block.db", "home": str(tmp_path / "block")})
    server.keep("repli-cluster", {"dask_address": "tcp://block:8786"})
    with temporary_settings({PREFECT_API_URL: standing["PREFECT_API_URL"]}):
        by_block = configured_settings({"REPLI_DATABASE_URL": ""})
        assert by_block.database_url == f"sqlite:///{tmp_path}/block.db"
        assert (by_block.home, by_block.dask_address) == (tmp_path / "block", "tcp://block:8786")
        mixed = configured_settings({"REPLI_DATABASE_URL": "sqlite:////set.db", "REPLI_DASK_ADDRESS": "tcp://set:1"})
        assert (mixed.database_url, mixed.dask_address) == ("sqlite:////set.db", "tcp://set:1")
        assert mixed.home == tmp_path / "block"
        server.keep("repli-cluster", {"dask_address": "block"})
        with pytest.raises(UsageError, match=r"the block repli-cluster/default is invalid: dask_address: "):
            configured_settings({})


@pytest.mark.parametrize("kept_database", ["postgresql"], indirect=True)
def test_a_deployed_flow_goes_by_the_blocks_alone(
    database: Database, server: Server, standing: dict[str, str], tmp_path: Path
) -> None:
    """Its store, its cluster and its policy are the blocks', and the secret of the store is nowhere to be seen."""
    manifest = write_manifest(tmp_path / "items", 2)
    server.keep("item-store", {"database_url": with_secret(database.url), "home": str(tmp_path / "home")})
    server.keep("repli-cluster", {"dask_address": standing["REPLI_DASK_ADDRESS"]})
    server.keep("enrichment-policy", {"chains": {"classify_image": {"gpu": 0, "cpu": 1}}})
    before = work_of(standing)
    done = deployed(standing, manifest, PREFECT_LOGGING_LEVEL="DEBUG")
    assert done.returncode == 0, done.stderr[-2000:]
    assert work_of(standing) > before
    tally = counts.tally(database, STAGE_NAMES)
    assert (tally.stored, tally.rungs["classify_image"]) == (2, {"cpu": 2})
    assert SECRET not in done.stdout + done.stderr
    assert_kept_to_itself(server)


@pytest.mark.campaign  # the flow waits for the store for a minute
def test_a_store_that_does_not_answer_keeps_its_secret(
    server: Server, standing: dict[str, str], tmp_path: Path
) -> None:
    """The deployed flow fails in one line that names the store without its password."""
    manifest = write_manifest(tmp_path / "items", 2)
    server.keep("item-store", {"database_url": f"postgresql://repli:{SECRET}@127.0.0.1:1/repli"})
    lost = deployed(standing, manifest, PREFECT_LOGGING_LEVEL="DEBUG")
    assert lost.returncode == 1
    assert "did not answer" in lost.stdout
    assert "waited 60 s; start the run again" in lost.stdout
    assert SECRET not in lost.stdout + lost.stderr
    for what in ("logs", "flow_runs"):
        assert (found := server.all(what)), f"there are no {what} to look at"
        assert SECRET not in json.dumps(found), what


@pytest.mark.campaign
@pytest.mark.parametrize("kept_database", ["postgresql"], indirect=True)
def test_no_command_shows_the_secret(database: Database, shop: Shop, server: Server, tmp_path: Path) -> None:
    """Neither what it prints, on either stream, nor what Prefect keeps of it: logs, artifacts, parameters, events."""
    manifest = write_manifest(tmp_path / "items", 2)
    url = with_secret(database.url)
    shown = []
    for arguments in (
        ("run", manifest, "--fault", "classify_image.gpu=error", "--json"),
        ("reprocess", "--json"),
        ("status", "--json"),
        ("status",),
        ("show", "item-1", "--json"),
        ("show", "nobody"),
        ("queue", "--json"),
        ("breakers", "reset", "classify_image.gpu", "--json"),
    ):
        done = shop.repli(*arguments, "--database", url, PREFECT_LOGGING_LEVEL="DEBUG", REPLI_RETRY_BELOW="1")
        assert done.returncode == ("nobody" in arguments), done.stderr
        shown += [done.stdout, done.stderr]
    nowhere = f"postgresql://repli:{SECRET}@127.0.0.1:1/repli"
    for url in (nowhere, f"postgresql://127.0.0.1:1/repli?user=repli&password={SECRET}", nowhere.replace("//", "/")):
        done = shop.repli("run", manifest, "--database", url)
        assert done.returncode != 0
        shown += [done.stdout, done.stderr]
    assert str(database.url.database) in "".join(shown), "they do say which store it is"
    assert SECRET not in "".join(shown)
    assert_kept_to_itself(server)


def work_of(standing: dict[str, str]) -> int:
    """How often the standing cluster has moved a task so far."""
    with Client(standing["REPLI_DASK_ADDRESS"], set_as_default=False) as client:
        return int(client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter))


def with_secret(url: URL) -> str:
    """The URL with a password, which this PostgreSQL does not ask for."""
    return url.set(password=SECRET).render_as_string(hide_password=False)


def assert_kept_to_itself(server: Server) -> None:
    """The secret is in nothing that the server shows."""
    for what in ("logs", "artifacts", "flow_runs", "task_runs", "deployments", "variables", "block_documents"):
        found = server.all(what)
        assert found or what in {"deployments", "variables", "block_documents"}, f"there are no {what} to look at"
        assert SECRET not in json.dumps(found), what
    events = server.events()
    assert events
    assert SECRET not in json.dumps(events)
