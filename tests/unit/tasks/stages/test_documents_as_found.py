"""Documents as the world has them, from a manifest through every stage: what is claimed is so."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from repli.tasks.fallback import Status, StepResult
from repli.tasks.reporting.export import export
from repli.tasks.settings import Settings
from repli.tasks.storage import counts
from repli.tasks.storage.database import Database
from repli.tasks.storage.search import query
from repli.tasks.storage.views import browse
from repli.tasks.storage.views.lookup import ItemView
from tests.support import files
from tests.support.default_pipeline import STAGE_NAMES, STORED
from tests.support.in_process import enrich
from tests.support.scripts import SENTENCES

ENGLISH = SENTENCES["english"]
QUOTES = "“It’s a fine lamp” – the café said, and it doesn’t cost much: only 20 € for the whole set."
CHINESE = "联系电话和手机都在店里，价格是二百元。"
POLISH = SENTENCES["polish"]
PAGE = "<!DOCTYPE html><html><head>{head}<title>x</title></head><body><article><p>{text}</p></article></body></html>"


def page(text: str, codec: str, charset: str | None = None) -> bytes:
    return PAGE.format(head=f'<meta charset="{charset}">' if charset else "", text=text).encode(codec)


READ: dict[str, tuple[bytes, str, str, str | None]] = {
    # file: (content, text, rung, charset)
    "iso-8859-1.html": (page(QUOTES, "cp1252", "iso-8859-1"), QUOTES, "full", "windows-1252"),
    "gb2312.html": (page(CHINESE, "gbk", "gb2312"), CHINESE, "full", "gbk"),
    "utf16le-nobom.txt": (ENGLISH.encode("utf-16-le"), ENGLISH, "full", "utf-16le"),
    "marked.html": (page(POLISH, "utf-8-sig", "iso-8859-2"), POLISH, "full", "utf-8"),
    "form.pdf": (
        files.form_pdf("Product:", "Brass desk lamp with green shade"),
        "Product: Brass desk lamp with green shade",
        "full",
        None,
    ),
    "fragment-file": (b"<p>A brass <b>desk lamp</b></p>", "A brass desk lamp", "full", "utf-8"),
    "begins-with-div.html": (b"<div>A <b>lamp</b></div>", "A lamp", "full", "utf-8"),
    "README": (SENTENCES["russian"].encode("cp1251"), SENTENCES["russian"], "full", "windows-1251"),
}

DECLINED: dict[str, tuple[bytes, str]] = {
    # file: (content, reason of the best rung)
    "nounicode.pdf": (files.no_unicode_pdf(), "have no Unicode value, so nothing tells what they mean"),
    "scan.pdf": (files.scanned_pdf(), "the PDF is a scan: its only page shows pictures and has no text"),
    "controls.txt": (b"\x01\x02" * 30, "the text cannot be read: 100% of it"),
    "replaced.txt": (("\ufffd" * 30).encode(), "the text cannot be read: 100% of it"),
    "zero-width.txt": (("\u200b" * 30).encode(), "the text is made of characters that show nothing"),
    "mojibake.txt": (POLISH.encode().decode("cp1252", "ignore").encode(), "was read in a wrong encoding"),
    "head-only.html": (b"<html><head><title>Lamps</title></head></html>", "has no text that this extractor finds"),
    "unsure.txt": (b"na\xefve", "the encoding of the text is not declared, and the best guess"),
}


def extracted(view: ItemView) -> StepResult:
    return view.stages["extract_text"]


def manifest(folder: Path, *items: dict[str, Any]) -> Path:
    path = folder / "items.jsonl"
    path.write_text("\n".join(json.dumps({"name": "A lamp", **item}) for item in items))
    return path


def words(result: StepResult) -> str:
    return " ".join(result.value["text"].split())


def test_documents_are_read_in_their_encoding(settings: Settings, tmp_path: Path) -> None:
    """With the text that a browser or a viewer shows, and the encoding that was used."""
    for name, (content, *_) in READ.items():
        (tmp_path / name).write_bytes(content)
    views = enrich(settings, manifest(tmp_path, *({"id": name, "document": name} for name in READ)))
    for name, (_, text, rung, charset) in READ.items():
        result = extracted(views[name])
        assert (name, words(result), result.rung) == (name, text, rung)
        assert views[name].stages["fetch"].value["document"]["charset"] == charset, name


def test_documents_that_nobody_can_read_are_declined(settings: Settings, tmp_path: Path) -> None:
    """The name serves in their place, the reason is told, and nothing waits for another try."""
    for name, (content, _) in DECLINED.items():
        (tmp_path / name).write_bytes(content)
    views = enrich(settings, manifest(tmp_path, *({"id": name, "document": name} for name in DECLINED)))
    for name, (_, reason) in DECLINED.items():
        result = extracted(views[name])
        assert (name, result.status, result.rung, result.retryable) == (name, Status.DEGRADED, "name_only", False)
        assert result.error is not None
        assert (result.error.type, reason in result.error.message) == ("Declined", True), result.error.message


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("<p>A brass <b>lamp</b>&nbsp;", "A brass lamp"),
        ("A brass <b>lamp</b><br>with a shade", "A brass lamp with a shade"),
        ("Fish &amp; chips for two", "Fish & chips for two"),
        ("Tables where a < b and c > d", "Tables where a < b and c > d"),
        (QUOTES, QUOTES),
    ],
)
def test_html_in_a_cell_is_html(settings: Settings, tmp_path: Path, cell: str, text: str) -> None:
    """Its tags are no words of it; a text with angles is a text."""
    views = enrich(settings, manifest(tmp_path, {"id": "a", "document": cell}))
    assert words(extracted(views["a"])) == text
    assert views["a"].stages["fetch"].value["document"]["charset"] == "utf-8"


@pytest.mark.parametrize("cell", ["N/A", "-", "None", "null", "#N/A", " n/a "])
def test_a_cell_that_says_that_there_is_nothing_declares_nothing(settings: Settings, tmp_path: Path, cell: str) -> None:
    """No stage looks for a file of that name, and `validate` says which cell it was."""
    views = enrich(settings, manifest(tmp_path, {"id": "a", "document": cell, "image": cell}))
    stages = views["a"].stages
    assert {stages[name].status for name in ("fetch", "extract_text", "classify_image")} == {Status.NOT_APPLICABLE}
    assert [(one["column"], one["value"]) for one in stages["validate"].value["violations"]] == [
        ("document", cell),
        ("image", cell),
    ]
    assert views["a"].quality == 0.8  # the vector is a hash, as this test forces


class _Site(BaseHTTPRequestHandler):
    """Serves a page in ISO 8859-2, with the header that its path names."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", f"text/html;{unquote(self.path[1:])}")
        self.end_headers()
        self.wfile.write(page(POLISH, "iso8859_2", "utf-8" if "meta" in self.path else None))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the standard library's name
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Site) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["charset=iso-8859-2", "meta;charset=ISO-8859-2", 'charset="latin2"'])
def test_the_encoding_that_a_server_declares_counts(settings: Settings, tmp_path: Path, site: str, path: str) -> None:
    """Before the page's own, from the origin and from the last good copy."""
    trusting = Settings.from_environment({"REPLI_HOME": str(settings.home), "REPLI_ALLOW_PRIVATE_ADDRESSES": "1"})
    for rung in ("origin", "cached"):
        source = manifest(tmp_path, {"id": rung, "document": f"{site}/{path}"})
        views = enrich(trusting, source, forced={"classify_image": "rules", "embed_text": "hashed", "fetch": rung})
        fetched = views[rung].stages["fetch"]
        assert (fetched.rung, fetched.value["document"]["charset"]) == (rung, "iso-8859-2")
        assert words(extracted(views[rung])) == POLISH


def test_the_declined_are_counted_wherever_results_are_shown(settings: Settings, tmp_path: Path) -> None:
    """In the counts of status, report and dashboard, on a hit of the search, in the export, and by item."""
    (tmp_path / "garbage.txt").write_bytes(b"\x01\x02" * 30)
    source = manifest(tmp_path, {"id": "bad", "document": "garbage.txt"}, {"id": "good", "document": ENGLISH})
    views = enrich(settings, source)
    assert (views["bad"].declined, views["good"].declined) == (["extract_text"], [])
    database = Database(settings.database_url)
    assert counts.tally(database, views["bad"].stages).as_json()["declined"] == {"extract_text": 1}
    hits = {hit.id: hit.declined for hit in query.search(database, ["lamp"], {}, limit=5, min_quality=0)}
    assert hits == {"bad": ("extract_text",), "good": ()}
    export(browse.browse(database, STORED, browse.Selection()), STAGE_NAMES, tmp_path / "exported.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "exported.jsonl").read_text().splitlines()]
    assert {line["id"]: line["declined"] for line in lines} == {"bad": ["extract_text"], "good": []}
