"""The fetch stage: per item, per asset, with last good copies."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from repli.tasks.execution.shared_breakers import BreakerRegistry
from repli.tasks.fallback import Breaker, ChainInput, Directives, Failed, Outcome, Served, Status, StepResult, run_chain
from repli.tasks.fallback.breaker import CallEnded, Verdict
from repli.tasks.items import Asset, Assets, Item, ItemState
from repli.tasks.pipeline import StageContext
from repli.tasks.runtime.process import process_runtime
from repli.tasks.settings import FetchLimits, Settings
from repli.tasks.sources.locate import InlineText
from repli.tasks.stages.fetch import STAGE, Carried, Declared
from repli.tasks.storage import breakers
from repli.tasks.storage.blobs import Blobs
from repli.tasks.storage.breakers import Key
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import good_copies
from tests.support.default_pipeline import PIPELINE

CHAIN = STAGE.chain
check = CHAIN.check
from_origin = CHAIN.rungs[0].call
from_cache = CHAIN.rungs[1].run

PNG = b"\x89PNG\r\n\x1a\n and more"
HTML = b"<html>a lamp</html>"
ALICE = f"Basic {base64.b64encode(b'alice:right').decode()}"
WHO = ("", "@", "mallory:wrong@", "alice:wrong@", "alice@", "***@", "alice:right@")
"""Credentials in an address, of which the last are the right ones."""


@pytest.fixture
def context(tmp_path: Path) -> Iterator[StageContext]:
    """A store and a blob folder of this test's own."""
    settings = Settings(
        home=tmp_path / "home",
        database_url=f"sqlite:///{tmp_path / 'repli.db'}",
        fetch=FetchLimits(allow_private_addresses=True, time_limit_s=2),
    )
    database = Database(settings.database_url)
    database.migrate()
    yield StageContext(settings=settings, database=database, run_id="run", now=datetime(2026, 1, 1, tzinfo=UTC))
    database.engine.dispose()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest's folder with a page and a picture."""
    folder = tmp_path / "catalogue"
    folder.mkdir()
    (folder / "lamp.html").write_bytes(HTML)
    (folder / "lamp.png").write_bytes(PNG)
    return folder


@pytest.fixture
def declare(folder: Path) -> Callable[..., Declared]:
    """What an item of that manifest declares."""

    def declared(document: Any = None, image: Any = None) -> Declared:
        return Declared(document=document, image=image, folder=str(folder))

    return declared


class Site(ThreadingHTTPServer):
    """A server of one picture, which counts how often each path is asked for and can be told to fail."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: Counter[str] = Counter()
        self.is_down = False
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.requests[self.path] += 1
        is_allowed = self.path == "/lamp.png" or (self.path == "/me" and self.headers["Authorization"] == ALICE)
        is_there = is_allowed and not self.server.is_down
        self.send_response(200 if is_there else 404)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(PNG if is_there else b"")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the standard library's name
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def served(outcome: Outcome[Assets]) -> Assets:
    assert isinstance(outcome, Served), outcome
    return outcome.value


def message(outcome: Outcome[Assets]) -> str:
    assert isinstance(outcome, Failed), outcome
    return outcome.error.message


def run(items: list[Declared], context: StageContext, directives: Directives = Directives()) -> list[StepResult]:
    works = [ChainInput(f"item {position}", item) for position, item in enumerate(items)]
    runtime = process_runtime(may_exit=False)
    return run_chain(CHAIN, works, context, run_id="run", runtime=runtime, directives=directives)


def test_an_item_is_its_document_and_its_image() -> None:
    """The stage's input carries both, and the folder that paths start in."""
    item = Item(id="1", document="a.html", image="a.png", folder="/f")
    assert PIPELINE.input("fetch", ItemState(item=item, results={})) == Declared(
        document="a.html", image="a.png", folder="/f"
    )


def test_a_text_is_the_document_where_there_is_no_other() -> None:
    """It is inline, whatever it looks like; a document goes before it."""
    item = Item(id="1", text="lamp.html", folder="/f")
    declared = PIPELINE.input("fetch", ItemState(item=item, results={}))
    assert declared == Declared(document=InlineText("lamp.html"), image=None, folder="/f")
    both = PIPELINE.input("fetch", ItemState(item=replace(item, document="a.html"), results={}))
    assert both == Declared(document="a.html", image=None, folder="/f")


def test_bytes_that_came_with_the_manifest_are_assets(context: StageContext, declare: Callable[..., Declared]) -> None:
    """Nothing is read for them, by either rung; bytes that are gone fail their own item."""
    sha256 = Blobs(context.settings.blobs).put(PNG)
    text = Blobs(context.settings.blobs).put(b"A lamp.")
    for rung in ("origin", "cached"):
        directives = Directives(forced={"fetch": rung})
        whole, gone = run(
            [declare(Carried(text), Carried(sha256)), declare(image=Carried("0" * 64))], context, directives
        )
        assert whole.rung == rung
        document, image = whole.value.document, whole.value.image
        assert (image.sha256, image.media_type, image.source) == (sha256, "image/png", "inline")
        assert (document.media_type, document.size) == ("text/plain", 7)
        assert gone.status is Status.SKIPPED
        assert "the image that came with the manifest cannot be read" in str(gone.error)


@pytest.mark.parametrize("nothing", [None, "", " \n"])
def test_an_item_that_declares_nothing_is_not_applicable(nothing: str | None) -> None:
    """No value and a blank one are no declaration; one asset is enough for the stage to apply."""
    assert PIPELINE.input("fetch", ItemState(item=Item(id="1", document=nothing, image=nothing), results={})) is None
    only_image = PIPELINE.input("fetch", ItemState(item=Item(id="1", document=nothing, image="a.png"), results={}))
    assert only_image == Declared(document=None, image="a.png", folder="")


def test_both_assets_come_from_their_origin(
    context: StageContext, folder: Path, declare: Callable[..., Declared], site: Site
) -> None:
    """With their size, the type of their bytes, and a blob that holds them."""
    [result] = run([declare("lamp.html", f"{site.url}/lamp.png")], context)
    assert (result.status, result.rung, result.confidence) == (Status.SUCCEEDED, "origin", 1.0)
    assets = result.value
    blobs = Blobs(context.settings.blobs)
    assert replace(assets.document, sha256="") == Asset(
        uri=(folder / "lamp.html").as_uri(),
        sha256="",
        size=len(HTML),
        media_type="text/html",
        charset="utf-8",
        source="origin",
    )
    assert (assets.image.uri, assets.image.media_type) == (f"{site.url}/lamp.png", "image/png")
    assert blobs.read(assets.document.sha256) == HTML
    assert blobs.read(assets.image.sha256) == PNG


def test_text_and_data_are_inline(context: StageContext, declare: Callable[..., Declared]) -> None:
    """What the manifest itself carries lies in a blob too, and is no copy of anything."""
    [outcome] = from_origin([declare("A lamp, of brâss.", "data:image/png;base64,aGVsbG8=")], context)
    assets = served(outcome)
    assert assets.document and assets.image
    assert (assets.document.source, assets.document.media_type) == ("inline", "text/plain")
    assert assets.document.uri == f"inline:{assets.document.sha256[:16]}"
    assert Blobs(context.settings.blobs).read(assets.document.sha256).decode() == "A lamp, of brâss."
    assert (assets.image.source, assets.image.size) == ("inline", 5)
    with context.database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(good_copies)) == 0


def test_one_bad_item_touches_no_other(context: StageContext, declare: Callable[..., Declared]) -> None:
    """Among whatever a manifest may hold, the good items are served by the primary."""
    good = declare("lamp.html", "lamp.png")
    bad = [
        declare(7, None),
        declare(None, ["lamp.png"]),
        declare("a\0b.html"),
        declare(None, "x" * 5000),
        declare(None, "../secret.png"),
        declare(None, "ftp://host/a"),
        declare("http://[::1"),
        declare(None, "http://127.0.0.1:1/a"),
        declare("data:,"),
        declare("file:///a%00b"),
        declare(None, "\ud800"),
    ]
    outcomes = from_origin([good, *bad, good], context)
    assert [isinstance(outcome, Served) for outcome in outcomes] == [True, *[False] * len(bad), True]
    assert all(isinstance(outcome, Failed) for outcome in from_cache(bad, context))


@pytest.mark.parametrize(
    ("document", "image", "expected"),
    [
        (7, None, "document: the manifest declares a value of type int; write text, a path or a URI as a string"),
        (None, "gone.png", "image: there is no file gone.png; put it there or correct the manifest"),
        ("gone.html", "/dev/null", "document: there is no file gone.html.* · image: /dev/null is outside"),
        ("data:,", None, "document: the data URI is empty; add its content"),
    ],
)
def test_a_failure_names_asset_place_reason_and_next_step(
    context: StageContext, declare: Callable[..., Declared], document: Any, image: Any, expected: str
) -> None:
    """One message for all of an item's assets that could not be had."""
    [outcome] = from_origin([declare(document, image)], context)
    assert re.match(expected, message(outcome))


def test_trying_again_is_worth_it_where_one_asset_may_come_back(
    context: StageContext, declare: Callable[..., Declared]
) -> None:
    """A value of a wrong type stays wrong; a file that is missing may be put there."""
    wrong, mixed = from_origin([declare(7), declare(7, "gone.png")], context)
    assert isinstance(wrong, Failed) and isinstance(mixed, Failed)
    assert (wrong.error.type, wrong.error.retryable) == ("InvalidItem", False)
    assert (mixed.error.type, mixed.error.retryable) == ("ItemError", True)


def test_a_missing_picture_keeps_the_document(context: StageContext, declare: Callable[..., Declared]) -> None:
    """The item goes on at .95 with half of what it declares, and the error explains the other half."""
    [result] = run([declare("lamp.html", "gone.png")], context)
    assert (result.status, result.rung, result.penalty) == (Status.DEGRADED, "cached", Decimal("0.95"))
    assert result.confidence == 0.5
    assert result.value.document and result.value.image is None
    assert result.error and result.error.message.startswith("image: there is no file gone.png")
    assert [attempt.error and attempt.error.line for attempt in result.attempts][1:] == [
        "Incomplete: only the document"
    ]


def test_inline_text_is_kept_without_its_picture(context: StageContext, declare: Callable[..., Declared]) -> None:
    """What the manifest carries is had whatever happens to the rest."""
    [result] = run([declare("A lamp.", "gone.png")], context)
    assert (result.rung, result.value.document.source) == ("cached", "inline")


def test_an_item_of_which_nothing_is_had_is_skipped(context: StageContext, declare: Callable[..., Declared]) -> None:
    """No origin and no copy: the stage is given up, with the first reason."""
    [result] = run([declare("gone.html", "gone.png")], context)
    assert (result.status, result.value, result.confidence) == (Status.SKIPPED, None, 0.0)
    assert result.error and "document: there is no file gone.html" in result.error.message
    assert result.attempts[1].error and "no last good copy" in result.attempts[1].error.message


def test_what_origin_had_is_not_read_again(context: StageContext, declare: Callable[..., Declared], site: Site) -> None:
    """The fallback serves the picture that came a moment ago, from its copy."""
    [result] = run([declare("gone.html", f"{site.url}/lamp.png")], context)
    assert (result.rung, result.value.image.source) == ("cached", "cached")
    assert site.requests == {"/lamp.png": 1}


def test_a_uri_of_many_items_is_read_once(context: StageContext, declare: Callable[..., Declared], site: Site) -> None:
    """A placeholder picture that half the catalogue shares is asked for once a batch."""
    outcomes = from_origin([declare(None, f"{site.url}/lamp.png")] * 5, context)
    assert len({served(outcome).image for outcome in outcomes}) == 1
    assert site.requests == {"/lamp.png": 1}


def test_the_last_good_copy_outlives_its_origin(
    context: StageContext, folder: Path, declare: Callable[..., Declared], site: Site
) -> None:
    """When server and file are gone, both assets are served as they were last, byte for byte."""
    item = declare("lamp.html", f"{site.url}/lamp.png")
    run([item], context)
    site.is_down = True
    (folder / "lamp.html").unlink()
    [result] = run([item], context)
    assert (result.status, result.rung, result.confidence) == (Status.DEGRADED, "cached", 1.0)
    blobs = Blobs(context.settings.blobs)
    assert blobs.read(result.value.document.sha256) == HTML
    assert blobs.read(result.value.image.sha256) == PNG
    assert result.value.image.media_type == "image/png"


def test_an_empty_file_does_not_replace_the_last_good_copy(
    context: StageContext, folder: Path, declare: Callable[..., Declared]
) -> None:
    """A file that was truncated is told, and its last content served."""
    run([declare("lamp.html")], context)
    (folder / "lamp.html").write_bytes(b"")
    [result] = run([declare("lamp.html")], context)
    assert Blobs(context.settings.blobs).read(result.value.document.sha256) == HTML
    assert result.error and "lamp.html is empty" in result.error.message


def test_the_newest_good_copy_is_served(context: StageContext, folder: Path, declare: Callable[..., Declared]) -> None:
    """A page that changed is remembered as it is now."""
    run([declare("lamp.html")], context)
    (folder / "lamp.html").write_bytes(HTML + b"!")
    run([declare("lamp.html")], context)
    [outcome] = from_cache([declare("lamp.html")], context)
    document = served(outcome).document
    assert document and Blobs(context.settings.blobs).read(document.sha256) == HTML + b"!"


def test_a_copy_without_its_blob_is_no_copy(context: StageContext, declare: Callable[..., Declared]) -> None:
    """A blob that somebody deleted is not promised."""
    run([declare("lamp.html")], context)
    [outcome] = from_cache([declare("lamp.html")], context)
    document = served(outcome).document
    assert document
    Blobs(context.settings.blobs).path(document.sha256).unlink()
    [outcome] = from_cache([declare("lamp.html")], context)
    assert "no last good copy" in message(outcome)


def test_a_copy_is_no_way_out_of_the_folder(
    context: StageContext, folder: Path, declare: Callable[..., Declared]
) -> None:
    """A file that was read under a setting that is off now is not served from its copy either."""
    (folder.parent / "secret.txt").write_text("secret")
    limits = replace(context.settings.fetch, allow_outside_files=True)
    trusting = replace(context, settings=replace(context.settings, fetch=limits))
    served(from_origin([declare("../secret.txt")], trusting)[0])
    served(from_cache([declare("../secret.txt")], trusting)[0])
    assert "outside of the manifest's folder" in message(from_cache([declare("../secret.txt")], context)[0])


def test_no_password_is_kept(context: StageContext, declare: Callable[..., Declared], site: Site) -> None:
    """Neither the asset nor the note of its copy has the password of its URI."""
    uri = f"{site.url}/lamp.png".replace("http://", "http://me:hush@")
    for fetch in (from_origin, from_cache):
        image = served(fetch([declare(None, uri)], context)[0]).image
        assert image and image.uri == uri.replace("me:hush", "***")
    with context.database.read() as connection:
        [kept] = connection.execute(sa.select(good_copies)).all()
    assert kept.uri.startswith(f"private {uri.replace('me:hush', '***')} ")
    written = repr(kept)
    assert "hush" not in written
    for text in (b"hush", b"me:hush", b"me:hush@", uri.encode()):
        assert hashlib.sha256(text).hexdigest() not in written, "a fast hash of a password can be guessed"


def test_a_copy_is_of_the_credentials_that_it_was_read_with(
    context: StageContext, declare: Callable[..., Declared], site: Site
) -> None:
    """A page that one account may read is served from its copy to that account, and to no other."""
    by_account = {who: declare(None, site.url.replace("//", f"//{who}") + "/me") for who in WHO}
    served(from_origin([by_account["alice:right@"]], context)[0])
    found = {who: from_cache([by_account[who]], context)[0] for who in WHO}
    assert [who for who, outcome in found.items() if isinstance(outcome, Served)] == ["alice:right@"]
    [result] = run([by_account["mallory:wrong@"]], context)
    assert (result.status, result.value) == (Status.SKIPPED, None)
    image = served(found["alice:right@"]).image
    assert image and Blobs(context.settings.blobs).read(image.sha256) == PNG


def test_a_copy_of_a_private_address_needs_the_leave(
    context: StageContext, declare: Callable[..., Declared], site: Site
) -> None:
    """What was read with leave to reach private addresses is not served to a manifest without it."""
    lamp = declare(None, f"{site.url}/lamp.png")
    served(from_origin([lamp], context)[0])
    strict = replace(context.settings, fetch=replace(context.settings.fetch, allow_private_addresses=False))
    (outcome,) = from_cache([lamp], replace(context, settings=strict))
    assert isinstance(outcome, Failed)


def test_a_blob_folder_that_cannot_be_written_is_told(context: StageContext, declare: Callable[..., Declared]) -> None:
    """A full or locked disk degrades items and says so, one by one; the batch is not read again and again."""
    context.settings.home.mkdir()
    context.settings.blobs.write_text("in the way")
    for outcome in from_origin([declare("lamp.html"), declare("A lamp.")], context):
        assert isinstance(outcome, Failed)
        assert outcome.error.type == "StoreError"
        assert "REPLI_HOME" in outcome.error.message


def test_a_forced_fallback_asks_no_origin(context: StageContext, declare: Callable[..., Declared], site: Site) -> None:
    """Forcing `cached` serves what is there and touches no network."""
    items = [declare("A lamp.", f"{site.url}/lamp.png")]
    [result] = run(items, context, Directives(forced={"fetch": "cached"}))
    assert (result.rung, result.confidence) == ("cached", 0.5)
    assert not site.requests


def test_a_refused_origin_is_in_the_trail_and_no_error_of_the_item(
    context: StageContext, declare: Callable[..., Declared], site: Site
) -> None:
    """The attempt says `refused`, with what the origin's failure was; another asset's own error outranks it."""
    breaker_of = BreakerRegistry(context.database, device_scope="here").of
    ended = CallEnded("another worker's", Verdict.FAILED, "it answered 503", 3600.0)
    breakers.apply(context.database, Breaker(scope="key"), Key("fetch.origin", site.url), ended)
    items = [declare(None, f"{site.url}/lamp.png"), declare("gone.html", f"{site.url}/lamp.png")]
    works = [ChainInput(str(position), item) for position, item in enumerate(items)]
    within = process_runtime(may_exit=False, breaker_of=breaker_of)
    one, both = run_chain(CHAIN, works, context, run_id="run", runtime=within)
    assert [attempt.outcome.value for attempt in one.attempts] == ["refused", "failed", "served"]
    assert one.attempts[0].error
    assert "503" in one.attempts[0].error.message
    assert not one.attempts[0].is_item_error
    assert (both.attempts[0].outcome.value, both.attempts[0].is_item_error) == ("failed", True)
    assert not site.requests


@pytest.mark.parametrize("answer", [None, "text", Assets(document=None, image=None), {"document": None}])
def test_an_answer_without_an_asset_is_refused(answer: Any) -> None:
    """Nonsense falls to the next rung instead of into the store."""
    with pytest.raises(ValueError, match=r"asset|Assets"):
        check(answer)


def test_the_primary_has_time_for_a_full_batch() -> None:
    """The items of a full batch, of two assets that all take their whole time, end before the rung is cut off."""
    from repli.tasks.execution.batch_size import LARGEST
    from repli.tasks.sources.batch import PARALLEL_READS
    from repli.tasks.stages.fetch import ORIGIN_LIMIT_S, RETURN_MARGIN_S

    limits = Settings(home=Path(), database_url="")
    longest = LARGEST * 2 / PARALLEL_READS * limits.fetch.time_limit_s
    assert longest < ORIGIN_LIMIT_S - RETURN_MARGIN_S < CHAIN.primary.time_limit_s
