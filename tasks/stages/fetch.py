"""Fetch: copy an item's document and image into the blob folder, from their origin or from the last good copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from repli.tasks.fallback import Failed, ItemError, Outcome, Served, StepError, StoreError
from repli.tasks.items import Asset, Assets
from repli.tasks.pipeline import EnrichedItem, Stage, StageContext, StageHooks
from repli.tasks.settings import FetchLimits
from repli.tasks.sources import locate
from repli.tasks.sources.locate import Content, Place
from repli.tasks.storage.blobs import Blobs, last_copies, remember_copies

if TYPE_CHECKING:  # the import takes 0.3 s, which a manifest of files does not need
    from repli.tasks.sources.web import Web

PARALLEL_READS = 8
"""Assets of one batch that are read at the same time."""

ORIGIN_LIMIT_S = 1800.0
RETURN_MARGIN_S = 60.0
"""Seconds before its limit at which `origin` returns what it has read, so that one slow server fails no other item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """The document and image that an item's record declares, of any type; None where it declares none.

    `folder` is the folder that relative paths are resolved against.
    """

    document: Any
    image: Any
    folder: str


def fetch_input(item: EnrichedItem) -> Declared | None:
    """Return the declared assets; None, so not applicable, where there are none. A blank string declares nothing."""
    document, image = _none_if_blank(item.document), _none_if_blank(item.image)
    if document is None and image is None:
        return None
    return Declared(document=document, image=image, folder=item.state.item.folder)


STAGE = Stage(
    "fetch",
    input=fetch_input,
    produces=Assets,
    hooks=StageHooks(
        must_be="first", because="a stage before it would see items without their document and image; insert after it"
    ),
)


@STAGE.rung(time_limit_s=ORIGIN_LIMIT_S)
def origin(items: Sequence[Declared], context: StageContext) -> Iterator[tuple[int, Outcome[Assets]]]:
    """Read every declared asset from its origin. An item is served only if all of its assets were read.

    Each item is answered once its assets are read, so that a slow one holds up no other. Assets that were read are kept
    as the last good copies of their URIs in any case, so that `cached` need not read them again. Idempotent.
    """
    limits, blobs = context.settings.fetch, Blobs(context.settings.blobs)
    located = [_locate_declared(item, limits) for item in items]
    missing = {
        position: {one for one in by_column.values() if isinstance(one, Place)}
        for position, by_column in enumerate(located)
    }
    read: dict[Place, FetchResult] = {}

    def answered() -> Iterator[tuple[int, Outcome[Assets]]]:
        for position in [position for position, places in missing.items() if places <= read.keys()]:
            del missing[position]
            yield position, _all_or_failed(_results(located[position], read, blobs))

    yield from answered()
    for place, result in _read_all(list(dict.fromkeys(chain.from_iterable(missing.values()))), limits, blobs):
        read[place] = result
        yield from answered()
    copies = [(_copy_name(place, limits), asset) for place, asset in read.items() if isinstance(asset, Asset)]
    remember_copies(context.database, copies, context.now)


@STAGE.rung(penalty="0.95", time_limit_s=120)
def cached(items: Sequence[Declared], context: StageContext) -> Sequence[Outcome[Assets]]:
    """Return the declared assets that have a good copy, or that the manifest itself contains.

    The confidence is their share of the declared assets. Idempotent.
    """
    limits, blobs = context.settings.fetch, Blobs(context.settings.blobs)
    located = [_locate_declared(item, limits) for item in items]
    places = {one for by_column in located for one in by_column.values() if isinstance(one, Place)}
    copies = last_copies(context.database, [_copy_name(place, limits) for place in places])
    available = {name: copy for name, copy in copies.items() if blobs.path(copy.sha256).is_file()}
    found = {place: _copy_or_error(place, available.get(_copy_name(place, limits))) for place in places}
    return [_some_or_failed(_results(by_column, found, blobs)) for by_column in located]


STAGE.skip(penalty="0.7")


def _copy_name(place: Place, limits: FetchLimits) -> str:
    """Return the name that a place's last good copy is kept under.

    Copies that were read with permission to reach private addresses have names of their own, so that a manifest
    without that permission cannot use them.
    """
    return f"private {place.uri}" if place.is_web and limits.allow_private_addresses else place.uri


def _copy_or_error(place: Place, copy: Asset | None) -> FetchResult:
    return replace(copy, uri=place.uri) if copy else _no_copy(place)


Located = Place | Content | StepError
"""A declared asset: its place, its bytes, or the error where it has neither."""

FetchResult = Asset | StepError
"""A fetched asset, or the error."""


def _none_if_blank(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def _locate_declared(item: Declared, limits: FetchLimits) -> Mapping[str, Located]:
    """Locate the declared assets, by column."""

    def located(value: Any, *, may_be_text: bool) -> Located:
        try:
            return locate.locate(value, item.folder, limits, may_be_text=may_be_text)
        except ItemError as error:
            return StepError.of(error)

    by_column: dict[str, Located] = {}
    if item.document is not None:
        by_column["document"] = located(item.document, may_be_text=True)
    if item.image is not None:
        by_column["image"] = located(item.image, may_be_text=False)
    return by_column


def _read_all(places: Sequence[Place], limits: FetchLimits, blobs: Blobs) -> Iterator[tuple[Place, FetchResult]]:
    """Read the `places`, several at a time, in less than the rung's time limit, and yield each once it is read."""
    pool = ThreadPoolExecutor(PARALLEL_READS, thread_name_prefix="fetch")
    try:
        with _web(places, limits) as web:
            futures = {pool.submit(_read, place, limits, blobs, web): place for place in places}
            try:
                for future in as_completed(futures, timeout=ORIGIN_LIMIT_S - RETURN_MARGIN_S):
                    yield futures.pop(future), future.result()
            except TimeoutError:
                for place in futures.values():
                    yield place, _not_reached(place)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # a read that hangs is left behind


@contextmanager
def _web(places: Sequence[Place], limits: FetchLimits) -> Iterator[Web | None]:
    """Open a web client, or yield None where no place is on the web."""
    if not any(place.is_web for place in places):
        yield None
        return
    from repli.tasks.sources.web import Web

    web = Web(limits)
    try:
        yield web
    finally:
        web.close()


def _read(place: Place, limits: FetchLimits, blobs: Blobs, web: Web | None) -> FetchResult:
    try:
        content = web.read(place) if web and place.is_web else locate.read(place, limits)
        return _store_content(content, place.uri, "origin", blobs)
    except ItemError as error:
        return StepError.of(error)


def _store_content(content: Content, uri: str, source: str, blobs: Blobs) -> FetchResult:
    """Put `content` into the blob folder and return its asset."""
    if not content.data:
        return StepError.of(
            ItemError(f"{uri or 'the data URI'} is empty; add its content, or remove it from the manifest")
        )
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


def _results(
    by_column: Mapping[str, Located], read: Mapping[Place, FetchResult], blobs: Blobs
) -> dict[str, FetchResult]:
    """Return the result of each declared asset: as `read` from its place, or stored from the manifest's bytes."""

    def result(located: Located) -> FetchResult:
        match located:
            case Place():
                return read[located]
            case Content():
                return _store_content(located, "", "inline", blobs)
            case _:
                return located

    return {column: result(located) for column, located in by_column.items()}


def _all_or_failed(results: Mapping[str, FetchResult]) -> Outcome[Assets]:
    errors = {column: asset for column, asset in results.items() if isinstance(asset, StepError)}
    return _failed(errors) if errors else _served(results)


def _some_or_failed(results: Mapping[str, FetchResult]) -> Outcome[Assets]:
    errors = {column: asset for column, asset in results.items() if isinstance(asset, StepError)}
    return _failed(errors) if len(errors) == len(results) else _served(results)


def _served(results: Mapping[str, FetchResult]) -> Served[Assets]:
    assets = {column: asset for column, asset in results.items() if isinstance(asset, Asset)}
    value = Assets(document=assets.get("document"), image=assets.get("image"))
    return Served(value, confidence=len(assets) / len(results))


def _failed(errors: Mapping[str, StepError]) -> Failed:
    """Return one failure for the errors of an item, by column; retryable where one of them is."""
    most_retryable = max(errors.values(), key=lambda error: error.retryable)
    message = " · ".join(f"{column}: {error.message}" for column, error in errors.items())
    return Failed(replace(most_retryable, message=message), is_item_error=True)


def _no_copy(place: Place) -> StepError:
    return StepError.of(ItemError(f"{place.declared} has no last good copy, because it was never fetched before"))


def _not_reached(place: Place) -> StepError:
    return StepError.of(ItemError(f"{place.declared} was not read within its batch's time limit; use smaller batches"))
