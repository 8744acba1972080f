"""What a person asks of a run: refused before anything is started, with the option's name and the next step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repli.flows.config.run_request import RetryRequest, RunRequest, parse_directives
from repli.tasks.fallback import FaultKind, UsageError
from repli.tasks.settings import Settings
from tests.support.default_pipeline import CHAINS, PIPELINE


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A manifest of five items."""
    path = tmp_path / "items.jsonl"
    path.write_text("".join(f'{{"id": "{number}", "name": "n"}}\n' for number in range(5)))
    return path


def test_a_request_knows_its_items(source: Path) -> None:
    """All of them, or as many as the limit says; each look begins at the first."""
    request = RunRequest(pipeline=PIPELINE, source=source, batch_size=2)
    assert [item.id for item in request.records()] == ["0", "1", "2", "3", "4"]
    limited = RunRequest(pipeline=PIPELINE, source=source, batch_size=2, limit=3)
    assert [item.id for item in limited.records()] == [item.id for item in limited.records()] == ["0", "1", "2"]
    assert len(list(RunRequest(pipeline=PIPELINE, source=source, batch_size=2, limit=10**30).records())) == 5


def test_a_request_knows_its_directives(source: Path) -> None:
    """Forced rungs by stage, and faults in their order; the same rung twice is still one."""
    directives = parse_directives(
        CHAINS,
        ("classify_image=skip", "embed_text=hashed", "classify_image=skip"),
        ("fetch.origin=error@0.5", "classify_image.gpu=oom"),
    )
    assert RunRequest(pipeline=PIPELINE, source=source, batch_size=1, directives=directives).directives is directives
    assert directives.forced == {"classify_image": "skip", "embed_text": "hashed"}
    assert [(fault.stage, fault.rung, fault.kind, fault.rate) for fault in directives.faults] == [
        ("fetch", "origin", FaultKind.ERROR, 0.5),
        ("classify_image", "gpu", FaultKind.OOM, 1.0),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--batch-size 0: a batch holds at least 1 item"),
        ({"batch_size": -3}, "--batch-size -3"),
        ({"batch_size": 10**30}, "a batch holds at most 10000 items"),
        ({"limit": 0}, "--limit 0: ask for at least 1 item"),
        ({"limit": -1}, "--limit -1"),
        ({"force": ("classify_image",)}, "--force 'classify_image' is not of the form STAGE=RUNG, such as"),
        ({"force": ("",)}, "--force '' is not of the form STAGE=RUNG"),
        ({"force": ("polish=gpu",)}, "--force 'polish=gpu': there is no stage 'polish'; choose from fetch, validate"),
        ({"force": ("embed_text=gpu",)}, "embed_text has no rung 'gpu'; choose from text_and_label, text_only"),
        ({"force": ("classify_image=",)}, "classify_image has no rung ''; choose from gpu, cpu, rules, skip"),
        ({"force": ("store=skip",)}, "store has no rung 'skip'; choose from database"),
        (
            {"force": ("classify_image=cpu", "classify_image=rules")},
            "--force 'classify_image=rules': classify_image is forced to cpu already; choose one",
        ),
        ({"faults": ("classify_image.gpu",)}, "is not of the form STAGE.RUNG=KIND[@RATE]"),
        ({"faults": ("classify_image.gpu=fire",)}, "there is no kind 'fire'; choose from oom"),
        ({"faults": ("classify_image.gpu=oom@2",)}, "the rate must be a number from 0 to 1"),
        ({"faults": ("classify_image.tpu=oom",)}, "classify_image has no rung 'tpu'; choose from gpu"),
        ({"faults": ("classify_image.skip=oom",)}, "skip calls nothing and cannot fail; name another rung"),
    ],
)
def test_what_cannot_be_done_is_refused(source: Path, options: dict[str, Any], message: str) -> None:
    """The message names the option as it was typed and what there is to choose from."""
    with pytest.raises(UsageError) as told:
        directives = parse_directives(CHAINS, options.get("force", ()), options.get("faults", ()))
        sizes = {name: value for name, value in options.items() if name not in {"force", "faults"}}
        RunRequest(**{"pipeline": PIPELINE, "source": source, "batch_size": 128, "directives": directives, **sizes})
    assert message in str(told.value)


@pytest.mark.parametrize("content", [None, "", "\n\n"])
def test_a_manifest_that_holds_nothing_is_refused(tmp_path: Path, content: str | None) -> None:
    """Missing or empty, it is told before a cluster is started."""
    path = tmp_path / "items.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=r"there is no manifest|holds no items"):
        RunRequest(pipeline=PIPELINE, source=path, batch_size=128)


def test_a_manifest_of_bad_lines_is_a_run(tmp_path: Path) -> None:
    """They are items that fail, and counted as such: nothing is refused for them."""
    path = tmp_path / "items.jsonl"
    path.write_text("not json\n")
    [item] = RunRequest(pipeline=PIPELINE, source=path, batch_size=128).records()
    assert item.problem is not None


def test_the_store_notes_what_was_asked(source: Path, settings: Settings) -> None:
    """All that may explain the results later, and whether the accelerator was real."""
    directives = parse_directives(CHAINS, ["embed_text=hashed"])
    request = RunRequest(pipeline=PIPELINE, source=source, batch_size=2, limit=3, directives=directives, refresh=True)
    assert request.options(settings) == {
        "batch_size": 2,
        "limit": 3,
        "columns": [],
        "delimiter": None,
        "encoding": None,
        "refresh": True,
        "force": ["embed_text=hashed"],
        "faults": [],
        "emulated": True,
    }


def test_a_request_to_do_again_knows_its_directives() -> None:
    """Faults in their order; nothing is forced, since only what is better than before is called."""
    directives = parse_directives(CHAINS, faults=("fetch.origin=error@0.5", "classify_image.gpu=oom"))
    assert RetryRequest(pipeline=PIPELINE, batch_size=4, directives=directives).directives is directives
    assert directives.forced == {}
    assert [(fault.stage, fault.rung, fault.kind, fault.rate) for fault in directives.faults] == [
        ("fetch", "origin", FaultKind.ERROR, 0.5),
        ("classify_image", "gpu", FaultKind.OOM, 1.0),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--batch-size 0: a batch holds at least 1 item"),
        ({"batch_size": 10**30}, "a batch holds at most 10000 items"),
        ({"limit": 0}, "--limit 0: ask for at least 1 item"),
        ({"faults": ("classify_image.gpu",)}, "is not of the form STAGE.RUNG=KIND[@RATE]"),
        ({"faults": ("classify_image.tpu=oom",)}, "classify_image has no rung 'tpu'; choose from gpu"),
        ({"faults": ("classify_image.gpu=oom@-1",)}, "the rate must be a number from 0 to 1"),
        ({"outdated": True, "outdated_stage": "embed"}, "--outdated 'embed': choose from fetch, validate"),
        ({"outdated": True, "outdated_stage": "store"}, "--outdated 'store': choose from"),
        ({"outdated_stage": "embed_text"}, "embed_text: a stage is given only after --outdated"),
    ],
)
def test_what_cannot_be_done_again_is_refused(options: dict[str, Any], message: str) -> None:
    """Before anything is started, and with the option as it was typed."""
    with pytest.raises(UsageError) as told:
        directives = parse_directives(CHAINS, faults=options.get("faults", ()))
        sizes = {name: value for name, value in options.items() if name != "faults"}
        RetryRequest(**{"pipeline": PIPELINE, "batch_size": 128, "directives": directives, **sizes})
    assert message in str(told.value)


@pytest.mark.parametrize(
    ("items", "limit", "batches"), [(1, None, 1), (4, None, 1), (5, None, 2), (9, 4, 1), (9, 100, 3), (100, None, 6)]
)
def test_batches_are_counted_up_to_a_number(tmp_path: Path, items: int, limit: int | None, batches: int) -> None:
    """Of the items up to the limit: as many workers as that are of use."""
    manifest = tmp_path / "items.jsonl"
    manifest.write_text("".join(f'{{"id": "{number}", "name": "n"}}\n' for number in range(items)))
    request = RunRequest(source=manifest, batch_size=4, pipeline=PIPELINE, limit=limit)
    assert request.batches(at_most=6) == batches


def test_the_store_notes_what_was_asked_to_be_done_again(settings: Settings) -> None:
    """As of any run."""
    request = RetryRequest(
        pipeline=PIPELINE, batch_size=2, limit=3, directives=parse_directives(CHAINS, faults=["fetch.origin=error"])
    )
    assert request.options(settings) == {
        "batch_size": 2,
        "limit": 3,
        "faults": ["fetch.origin=error"],
        "emulated": True,
    }


def test_the_store_notes_the_text_model_and_what_is_made_anew(settings: Settings) -> None:
    """The model where it is not the default one: a search finds the space of an older model by it."""
    named = replace(settings, models=replace(settings.models, text="/models/mini"))
    options = RetryRequest(pipeline=PIPELINE, outdated=True).options(named)
    assert (options["text_model"], options["outdated"]) == ("/models/mini", True)
    assert "text_model_of_block" not in options
    assert RetryRequest(pipeline=PIPELINE, outdated=True, outdated_stage="fetch").options(named)["outdated"] == "fetch"
