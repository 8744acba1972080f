"""Manifests as people have them, by the command line: a spreadsheet's CSV, and JSONL that is piped in."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.command_line import Repli, command, environment
from tests.support.photos import clear_photo

pytestmark = pytest.mark.timeout(600)

ROWS = (
    'Nr;Titel;"Beschreibung";Bild',
    "7;Bücherregal; Ein Regal für Bücher, aus Eiche. ;chair.png",
    "8;Stuhl;Café-Stuhl „Größe L“, 40 €;",
)


def test_a_spreadsheet_is_read_as_it_was_saved(quick_repli: Repli, tmp_path: Path) -> None:
    """Its own columns, delimiter and encoding are given once; the next run of the file remembers them."""
    table = tmp_path / "regal.csv"
    table.write_bytes("\r\n".join(ROWS).encode("windows-1252"))
    clear_photo(0).save(tmp_path / "chair.png")
    refused = quick_repli("run", table)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "its columns: Nr, Titel, Beschreibung, Bild" in refused.stderr

    names = {"id": "Nr", "name": "Titel", "text": "Beschreibung", "image": "Bild"}
    columns = [word for field, column in names.items() for word in ("--column", f"{field}={column}")]
    done = quick_repli("run", table, *columns, "--delimiter", ";", "--encoding", "windows-1252", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["items"], summary["stored"], summary["quality"]) == (2, 2, {"1.0": 2})
    shelf, chair = (json.loads(quick_repli("show", id_, "--json").stdout) for id_ in ("7", "8"))
    assert (shelf["name"], shelf["stages"]["classify_image"]["value"]["label"]) == ("Bücherregal", "folding chair")
    assert "Ein Regal für Bücher, aus Eiche." in shelf["stages"]["extract_text"]["value"]["text"]
    assert "Café-Stuhl „Größe L“, 40 €" in chair["stages"]["extract_text"]["value"]["text"]

    again = quick_repli("run", table, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["stored"] == 2
    assert "read as in its last run: --column 'id=Nr'" in again.stderr


def test_short_rows_are_said_by_the_run(quick_repli: Repli, tmp_path: Path) -> None:
    """Their items are enriched; the report and the JSON say what they have no cell for, within the limit."""
    table = tmp_path / "items.csv"
    table.write_text("id,name,text\na,Chair,A chair to fold.\nb,Mug\nc,Jug\n\n")
    said = f"the manifest {table}: {{}} fewer cells than the first line ({{}}), and nothing for 'text' ({{}})"
    limited = quick_repli("run", table, "--limit", "2", "--json")
    assert limited.returncode == 0, limited.stderr
    summary = json.loads(limited.stdout)
    assert (summary["stored"], summary["failed"]) == (2, 0)
    assert said.format("1 row has", "line 3", 1) in summary["notes"]
    done = quick_repli("run", table)
    assert done.returncode == 0, done.stderr
    assert "".join(said.format("2 rows have", "lines 3, 4", 2).split()) in "".join(done.stdout.split())


def test_standard_input_is_a_manifest(home: Path, tmp_path: Path, standing: dict[str, str]) -> None:
    """Relative paths start in the working directory; a line that cannot be read costs itself alone."""
    clear_photo(0).save(tmp_path / "chair.png")
    lines = [
        json.dumps({"id": "a", "name": "A", "text": "A chair to fold.", "image": "chair.png"}),
        '{"id": "b", "name": ',
    ]
    done = subprocess.run(
        command("run", "-", "--json"),
        input="\n".join(lines),
        cwd=tmp_path,
        env={**environment(home), **standing},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["items"], summary["stored"], summary["failed"]) == (2, 1, 1)
    assert summary["rungs"]["classify_image"] == {"gpu": 1}
    assert summary["not_reached"] == {stage: 1 for stage in summary["stages"] if stage not in {"fetch", "validate"}}


def test_a_refresh_tells_what_it_did_not_keep(quick_repli: Repli, tmp_path: Path) -> None:
    """The stored results stand, and the run's report counts the worse ones, once each."""
    manifest = tmp_path / "items.jsonl"
    clear_photo(0).save(tmp_path / "chair.png")
    records = [{"id": id_, "name": id_, "text": f"What {id_} is.", "image": "chair.png"} for id_ in "abc"]
    manifest.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert quick_repli("run", manifest).returncode == 0
    worse = quick_repli("run", manifest, "--refresh", "--fault", "classify_image.gpu=error", "--limit", "2")
    assert "2 results were worse than what is stored, which stands" in worse.stdout
    assert json.loads(quick_repli("status", "--json").stdout)["quality"] == {"1.0": 3}
    same = quick_repli("run", manifest, "--refresh")
    assert same.returncode == 0
    assert "worse than what is stored" not in same.stdout
