"""The confidences of texts, and of rungs that cannot tell their answers apart: their measured rates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from repli.tasks.fallback import StepResult
from repli.tasks.settings import Settings
from repli.tasks.stages.rates import RATES
from repli.tasks.text.main_text_share import OF_ARTICLES
from tests.support.default_pipeline import CHAINS
from tests.support.files import pdf, png
from tests.support.in_process import enrich

TEXT = "A harp is plucked by hand, and has many strings."
PAGE = f"<html><body><nav><a href='/'>Harps</a></nav><article><p>{TEXT}</p></article></body></html>"
FILES = {
    "page.html": PAGE.encode(),
    "part.html": f"<p>{TEXT}</p>".encode(),
    "plain.txt": TEXT.encode(),
    "report.pdf": pdf(TEXT),
}


def results(settings: Settings, folder: Path, record: str, forced: Mapping[str, str]) -> Mapping[str, StepResult]:
    """The results of one item by the rungs that are forced, without a model where none is."""
    for name, content in {**FILES, "photo.png": png(1)}.items():
        (folder / name).write_bytes(content)
    manifest = folder / "items.jsonl"
    manifest.write_text(record, encoding="utf-8")
    [view] = enrich(
        settings, manifest, forced={"embed_text": "text_only", "classify_image": "rules", **forced}
    ).values()
    return view.stages


@pytest.mark.parametrize("rung", ["full", "plain"])
@pytest.mark.parametrize("name", FILES)
def test_of_a_page_the_main_text_is_a_guess(settings: Settings, tmp_path: Path, name: str, rung: str) -> None:
    """Of a part of a page and of a plain text it is all of it."""
    record = f'{{"id": "harp", "name": "harp", "document": "{name}"}}'
    step = results(settings, tmp_path, record, {"extract_text": rung})["extract_text"]
    assert step.rung == rung
    outside = len(TEXT.replace(" ", ""))
    of_page = {"full": OF_ARTICLES, "plain": OF_ARTICLES * outside / (outside + len("Harps"))}
    wanted = {"page.html": of_page[rung], "report.pdf": OF_ARTICLES}
    assert step.confidence == pytest.approx(wanted.get(name, 1.0), abs=1e-4)


def test_the_text_of_the_manifest_is_right(settings: Settings, tmp_path: Path) -> None:
    """Whatever rung reads it."""
    record = f'{{"id": "harp", "name": "harp", "text": "{TEXT}"}}'
    step = results(settings, tmp_path, record, {"extract_text": "plain"})["extract_text"]
    assert (step.rung, step.confidence) == ("plain", 1.0)


@pytest.mark.parametrize(
    ("stage", "rung"),
    [
        ("extract_text", "name_only"),
        ("classify_image", "rules"),
        ("embed_text", "text_only"),
        ("embed_text", "hashed"),
    ],
)
def test_other_rungs_have_their_rate(settings: Settings, tmp_path: Path, stage: str, rung: str) -> None:
    """As the table has it."""
    record = '{"id": "harp", "name": "espresso, small", "document": "page.html", "image": "photo.png"}'
    step = results(settings, tmp_path, record, {stage: rung})[stage]
    assert (step.rung, step.confidence) == (rung, RATES[f"{stage}.{rung}"].value)


def test_the_table_has_the_rungs_that_may_be_wrong() -> None:
    """Those of texts, labels and vectors, in the order of the chains; and shares that lie in their intervals."""
    stages = {"extract_text", "classify_image", "embed_text"}
    assert list(RATES) == [
        f"{chain.stage}.{rung.name}" for chain in CHAINS if chain.stage in stages for rung in chain.rungs
    ]
    for rate in RATES.values():
        assert rate.factor == 1
        assert rate.interval is None or rate.interval[0] <= rate.value <= rate.interval[1]
