"""Fetch: copy an item's document and image into the blob folder, from their origin or from the last good copy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from repli.tasks.fallback import Breaker, Failed, ItemError, Outcome, Served, StepError, StoreError
from repli.tasks.fallback.errors import BreakerOpen
from repli.tasks.fallback.keyed_calls import KeyedCalls
from repli.tasks.items import INLINE, Asset, Assets
from repli.tasks.pipeline import EnrichedItem, Stage, StageContext, StageHooks
from repli.tasks.settings import FetchLimits
from repli.tasks.sources.batch import Batch, FetchResult, Located, Lookup
from repli.tasks.sources.locate import Content, InlineText, Place
from repli.tasks.sources.media_type import charset_of, media_type_of
from repli.tasks.storage.blobs import Blobs, last_copies, remember_copies

ORIGIN_LIMIT_S = 3960.0
"""The largest batch that a run chooses, of two assets an item that all take their whole time, is read in less."""
CACHED_LIMIT_S = 120.0
_ORIGIN_FAILED = "TransientError"
"""The type of an error of `repli.tasks.sources.web`, whose import takes 0.3 s, that no item caused."""
RETURN_MARGIN_S = 60.0
"""Seconds before its limit at which a rung returns what it has read, so that one slow place fails no other item."""


@dataclass(frozen=True, slots=True)
class Carried:
    """Bytes that came with the manifest. They are in the blob folder since the item was registered."""

    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """The document and image that an item's record declares, of any type; None where it declares none.

    An `InlineText` is a text, `Carried` are bytes that came with the manifest. `folder` is the folder that relative
    paths are resolved against.
    """

    document: Any
    image: Any
    folder: str

    def lookup(self, limits: FetchLimits) -> Lookup:
        """Return the lookup of what is declared. A document may be its own text."""
        declared = {column: value for column, value in self._values.items() if not isinstance(value, Carried)}
        return Lookup(declared, self.folder, limits, may_be_text="document")

    def carried(self) -> Mapping[str, Carried]:
        """Return the columns whose bytes came with the manifest."""
        return {column: value for column, value in self._values.items() if isinstance(value, Carried)}

    @property
    def _values(self) -> Mapping[str, Any]:
        values = {"document": self.document, "image": self.image}
        return {column: value for column, value in values.items() if value is not None}


def fetch_input(item: EnrichedItem) -> Declared | None:
    """Return the declared assets; None, so not applicable, where there are none. A blank string declares nothing.

    The item's text is its document where it declares no other.
    """
    record = item.state.item
    declared = {
        column: Carried(value.removeprefix(INLINE)) if column in record.inline else _none_if_blank(value)
        for column, value in {"document": item.document, "image": item.image}.items()
    }
    if declared["document"] is None and (text := _none_if_blank(item.text)) is not None:
        declared["document"] = InlineText(text)
    if declared["document"] is None and declared["image"] is None:
        return None
    return Declared(document=declared["document"], image=declared["image"], folder=record.folder)


STAGE = Stage(
    "fetch",
    input=fetch_input,
    produces=Assets,
    hooks=StageHooks(
        must_be="first", because="a stage before it would see items without their document and image; insert after it"
    ),
)


@STAGE.rung(time_limit_s=ORIGIN_LIMIT_S, breaker=Breaker(scope="key"))
def origin(items: Sequence[Declared], context: StageContext) -> Iterator[tuple[int, Outcome[Assets]]]:
    """Read every declared asset from its origin. An item is served only if all of its assets were read.

    Each item is answered once its assets are read, so that a slow one holds up no other. Assets that were read are kept
    as the last good copies of their URIs in any case, so that `cached` need not read them again. Idempotent.

    Each request of the web is a call of its origin (scheme, host and port), with a breaker of its own.
    """
    limits, blobs = context.settings.fetch, Blobs(context.settings.blobs)
    copies: dict[str, Asset] = {}
    for position, results in _read_all(items, limits, blobs, copies, context.call):
        yield position, _all_or_failed(results)
    remember_copies(context.database, list(copies.items()), context.now)


@STAGE.rung(penalty="0.95", time_limit_s=CACHED_LIMIT_S)
def cached(items: Sequence[Declared], context: StageContext) -> Sequence[Outcome[Assets]]:
    """Return the declared assets that have a good copy, or that the manifest itself contains.

    The confidence is their share of the declared assets. Idempotent.
    """
    limits, blobs = context.settings.fetch, Blobs(context.settings.blobs)
    located = _locate_all(items, limits)
    places = {one for by_column in located for one in by_column.values() if isinstance(one, Place)}
    copies = last_copies(context.database, [_copy_name(place, limits) for place in places])
    available = {name: copy for name, copy in copies.items() if blobs.path(copy.sha256).is_file()}
    found = {place: _copy_or_error(place, available.get(_copy_name(place, limits))) for place in places}
    return [
        _some_or_failed(_results(by_column, found, blobs) | _carried_assets(item, blobs))
        for item, by_column in zip(items, located, strict=True)
    ]


STAGE.skip(penalty="0.7")


def _copy_name(place: Place, limits: FetchLimits) -> str:
    """Return the name that a place's last good copy is kept under: its URI, and a hash of the credentials in it.

    So a copy is served only to a manifest with the credentials that it was read with. Copies that were read with
    permission to reach private addresses have names of their own, so that a manifest without that permission cannot
    use them.
    """
    name = f"{place.uri} {_hash(place.credentials, place.uri)}" if place.credentials else place.uri
    return f"private {name}" if place.is_web and limits.allow_private_addresses else name


def _hash(credentials: str, uri: str) -> str:
    """Return a hash of credentials for the host of `uri`, too slow to compute for guessing a password by it."""
    return _slow_hash(credentials, urlsplit(uri).netloc)


@lru_cache(maxsize=1024)
def _slow_hash(credentials: str, host: str) -> str:
    return hashlib.scrypt(credentials.encode(), salt=host.encode(), n=2**14, r=8, p=1, dklen=16).hex()


def _copy_or_error(place: Place, copy: Asset | None) -> FetchResult:
    return replace(copy, uri=place.uri) if copy else _no_copy(place)


def _none_if_blank(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def _locate_all(items: Sequence[Declared], limits: FetchLimits) -> list[Mapping[str, Located]]:
    """Return the located assets of each item, by column, in less than the time limit of `cached`."""
    batch = Batch([item.lookup(limits) for item in items], limits, store=None)
    return [batch.located[position] for position in sorted(batch.finished_items(CACHED_LIMIT_S - RETURN_MARGIN_S))]


def _read_all(
    items: Sequence[Declared], limits: FetchLimits, blobs: Blobs, copies: dict[str, Asset], call: KeyedCalls
) -> Iterator[tuple[int, dict[str, FetchResult]]]:
    """Yield the position of each item, and its results by column, as soon as all of its assets are read.

    All items are yielded in less than the time limit of `origin`.

    Args:
        copies: Takes what was read, by the names of its copies.
    """
    batch = Batch(
        [item.lookup(limits) for item in items],
        limits,
        store=lambda content, place: _store_content(content, place.uri, "origin", blobs),
        call=call,
    )
    for position in batch.finished_items(ORIGIN_LIMIT_S - RETURN_MARGIN_S):
        results = _results(batch.located[position], batch.read, blobs)
        yield position, results | _carried_assets(items[position], blobs)
    read = ((place, asset) for place, asset in batch.read.items() if isinstance(asset, Asset))
    copies.update((_copy_name(place, limits), asset) for place, asset in read)


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
    return _asset(content, uri, sha256, source)


def _asset(content: Content, uri: str, sha256: str, source: str) -> Asset:
    media_type = media_type_of(content, uri)
    return Asset(
        uri=uri or f"inline:{sha256[:16]}",
        sha256=sha256,
        size=len(content.data),
        media_type=media_type,
        charset=charset_of(content, media_type),
        source=source,
    )


def _carried_assets(item: Declared, blobs: Blobs) -> dict[str, FetchResult]:
    """Return the assets whose bytes came with the manifest."""
    return {column: _carried_asset(column, carried, blobs) for column, carried in item.carried().items()}


def _carried_asset(column: str, carried: Carried, blobs: Blobs) -> FetchResult:
    try:
        content = blobs.read(carried.sha256)
    except OSError as error:
        return StepError.of(
            ItemError(f"the {column} that came with the manifest cannot be read ({error.strerror}); run it again")
        )
    return _asset(Content(content), "", carried.sha256, "inline")


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
    limited_to = "" if len(assets) == len(results) else " and ".join(f"the {column}" for column in assets)
    return Served(value, confidence=len(assets) / len(results), limited_to=limited_to)


def _failed(errors: Mapping[str, StepError]) -> Failed:
    """Return one failure for the errors of an item, by column; retryable where one of them is."""
    most_retryable = max(errors.values(), key=lambda error: error.retryable)
    message = " · ".join(f"{column}: {error.message}" for column, error in errors.items())
    types = {error.type for error in errors.values()}
    keys = tuple(dict.fromkeys(key for error in errors.values() for key in error.keys))
    return Failed(
        replace(most_retryable, message=message, keys=keys),
        is_item_error=not types <= {BreakerOpen.__name__, _ORIGIN_FAILED},
        is_refused=types == {BreakerOpen.__name__},
    )


def _no_copy(place: Place) -> StepError:
    return StepError.of(ItemError(f"{place.declared} has no last good copy, because it was never fetched before"))
