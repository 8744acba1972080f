"""Fetch: an item's document and image, from where they are or from the last good copy, into the blob folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from repli.tasks.comparison.metrics import ASSETS
from repli.tasks.fallback import Chain, Failed, ItemError, Outcome, Rung, Served, Skip, StepError, StoreError
from repli.tasks.items import Asset, Assets, ItemState
from repli.tasks.pipeline import Stage, StageContext
from repli.tasks.settings import FetchLimits
from repli.tasks.sources import locate
from repli.tasks.sources.locate import Content, Place
from repli.tasks.storage.blobs import Blobs, last_copies, remember_copies

if TYPE_CHECKING:  # 0.3 s that a manifest of files does without
    from repli.tasks.sources.web import Web

PARALLEL = 8
"""Assets of one batch that are read at once."""

ORIGIN_LIMIT_S = 1800.0
CLOSING_TIME_S = 60.0
"""So long before its limit `origin` answers with what it has, so that one slow server costs no other item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What an item's record has as document and image, of whatever type; None where it declares none."""

    document: Any
    image: Any
    folder: str


def fetch_input(state: ItemState) -> Declared | None:
    """What the item declares; None, so not applicable, where that is nothing. A blank string is nothing."""
    document, image = _unless_blank(state.item.document), _unless_blank(state.item.image)
    if document is None and image is None:
        return None
    return Declared(document=document, image=image, folder=state.item.folder)


def from_origin(items: Sequence[Declared], context: StageContext) -> Sequence[Outcome[Assets]]:
    """Every declared asset, read from where it is. An item with an asset that cannot be had is not served.

    What was had is kept as the last good copy of its URI even then, so that `from_cache` need not read it again.
    Idempotent.
    """
    limits, blobs = context.settings.fetch, Blobs(context.settings.blobs)
    wanted = [_wanted(item, limits) for item in items]
    places = list(dict.fromkeys(want for wants in wanted for want in wants.values() if isinstance(want, Place)))
    read = _read_all(places, limits, blobs)
    copies = [(_copy_name(place, limits), asset) for place, asset in read.items() if isinstance(asset, Asset)]
    remember_copies(context.database, copies, context.now)
    return [_all_or_failed({column: _had(want, read, blobs) for column, want in wants.items()}) for wants in wanted]


def from_cache(items: Sequence[Declared], context: StageContext) -> Sequence[Outcome[Assets]]:
    """The declared assets that there is a good copy of, or that the manifest itself carries.

    The confidence is their share of all declared. Idempotent.
    """
    limits, blobs = context.settings.fetch, Blobs(context.settings.blobs)
    wanted = [_wanted(item, limits) for item in items]
    places = {want for wants in wanted for want in wants.values() if isinstance(want, Place)}
    copies = last_copies(context.database, [_copy_name(place, limits) for place in places])
    there = {name: copy for name, copy in copies.items() if blobs.path(copy.sha256).is_file()}
    kept: dict[Place, Had] = {place: _copy(place, there.get(_copy_name(place, limits))) for place in places}
    return [_some_or_failed({column: _had(want, kept, blobs) for column, want in wants.items()}) for wants in wanted]


def check_assets(value: Assets) -> None:
    """Raise ValueError for an answer without a single asset."""
    if not isinstance(value, Assets):
        raise ValueError(f"a {type(value).__name__} is no Assets")
    assets = [asset for asset in (value.document, value.image) if asset is not None]
    if not assets or not all(isinstance(asset, Asset) for asset in assets):
        raise ValueError("there is no asset among the answer")


CHAIN = Chain(
    "fetch",
    Rung("origin", from_origin, time_limit_s=ORIGIN_LIMIT_S),
    Rung("cached", from_cache, penalty="0.95", time_limit_s=120),
    Skip(penalty="0.7"),
    check=check_assets,
)
STAGE = Stage(CHAIN, fetch_input, ASSETS)


def _copy_name(place: Place, limits: FetchLimits) -> str:
    """The name of a place's good copy. What was read with leave to reach private addresses is kept apart: a manifest
    without that leave is not served from it."""
    return f"private {place.uri}" if place.is_web and limits.allow_private_addresses else place.uri


def _copy(place: Place, copy: Asset | None) -> Had:
    return replace(copy, uri=place.uri) if copy else _no_copy(place)


Want = Place | Content | StepError
"""A declared asset: where it is, or its bytes, or why it can be neither."""

Had = Asset | StepError
"""An asset, or why it could not be had."""


def _unless_blank(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def _wanted(item: Declared, limits: FetchLimits) -> Mapping[str, Want]:
    """The declared assets by column."""

    def located(value: Any, *, may_be_text: bool) -> Want:
        try:
            return locate.locate(value, item.folder, limits, may_be_text=may_be_text)
        except ItemError as error:
            return StepError.of(error)

    wants: dict[str, Want] = {}
    if item.document is not None:
        wants["document"] = located(item.document, may_be_text=True)
    if item.image is not None:
        wants["image"] = located(item.image, may_be_text=False)
    return wants


def _read_all(places: Sequence[Place], limits: FetchLimits, blobs: Blobs) -> dict[Place, Had]:
    """What came of each of the `places`, several at a time, in less than the rung's time limit."""
    pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="fetch")
    try:
        with _web(places, limits) as web:
            futures = {place: pool.submit(_read, place, limits, blobs, web) for place in places}
            done, _ = wait(futures.values(), timeout=ORIGIN_LIMIT_S - CLOSING_TIME_S)
        return {place: future.result() if future in done else _not_reached(place) for place, future in futures.items()}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # what hangs is left behind


@contextmanager
def _web(places: Sequence[Place], limits: FetchLimits) -> Iterator[Web | None]:
    """What reads the web, where one of the `places` is there."""
    if not any(place.is_web for place in places):
        yield None
        return
    from repli.tasks.sources.web import Web

    web = Web(limits)
    try:
        yield web
    finally:
        web.close()


def _read(place: Place, limits: FetchLimits, blobs: Blobs, web: Web | None) -> Had:
    try:
        content = web.read(place) if web and place.is_web else locate.read(place, limits)
        return _kept(content, place.uri, "origin", blobs)
    except ItemError as error:
        return StepError.of(error)


def _kept(content: Content, uri: str, source: str, blobs: Blobs) -> Had:
    """The asset of `content`, which now lies in the blob folder."""
    if not content.data:
        return StepError.of(ItemError(f"{uri or 'the data URI'} is empty; put something there or declare nothing"))
    try:
        sha256 = blobs.put(content.data)
    except StoreError as error:
        return StepError.of(error)
    return Asset(
        uri=uri or f"inline:{sha256[:16]}",
        sha256=sha256,
        size=len(content.data),
        media_type=locate.media_type_of(content, uri),
        source=source,
    )


def _had(want: Want, read: Mapping[Place, Had], blobs: Blobs) -> Had:
    match want:
        case Place():
            return read[want]
        case Content():
            return _kept(want, "", "inline", blobs)
        case _:
            return want


def _all_or_failed(had: Mapping[str, Had]) -> Outcome[Assets]:
    errors = {column: asset for column, asset in had.items() if isinstance(asset, StepError)}
    return _failed(errors) if errors else _served(had)


def _some_or_failed(had: Mapping[str, Had]) -> Outcome[Assets]:
    errors = {column: asset for column, asset in had.items() if isinstance(asset, StepError)}
    return _failed(errors) if len(errors) == len(had) else _served(had)


def _served(had: Mapping[str, Had]) -> Served[Assets]:
    assets = {column: asset for column, asset in had.items() if isinstance(asset, Asset)}
    value = Assets(document=assets.get("document"), image=assets.get("image"))
    return Served(value, confidence=len(assets) / len(had))


def _failed(errors: Mapping[str, StepError]) -> Failed:
    """One error for an item's, by column. Trying again helps where it helps one of them."""
    worth_most = max(errors.values(), key=lambda error: error.retryable)
    message = " · ".join(f"{column}: {error.message}" for column, error in errors.items())
    return Failed(replace(worth_most, message=message), is_item_error=True)


def _no_copy(place: Place) -> StepError:
    return StepError.of(ItemError(f"{place.declared} was never fetched before, so there is no last good copy of it"))


def _not_reached(place: Place) -> StepError:
    return StepError.of(ItemError(f"{place.declared} was not reached in its batch's time; use smaller batches"))
