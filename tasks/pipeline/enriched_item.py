"""An item as a stage sees it: its record, and the values of the stages before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from repli.tasks.items import Embedding, ItemState, is_placeholder
from repli.tasks.json_values import from_json

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class EnrichedItem:
    """The argument of a stage's `input`: an item's record, and the values of the stages before.

    Args:
        state: the record and the results.
        produces: what each earlier stage produces, in the order of the stages.

    Example:
        >>> def text_of(item: EnrichedItem) -> str | None:
        ...     text = item.value(Text)
        ...     return text.text if text else None
    """

    state: ItemState
    produces: Mapping[str, type | None]

    @property
    def id(self) -> str:
        """Return the item's id."""
        return self.state.item.id

    @property
    def name(self) -> Any:
        """Return the name, as the manifest has it: a text, unless no stage has validated it."""
        return self.state.item.name

    @property
    def document(self) -> Any:
        """Return the document that the manifest declares, a URI, a path or a text; None for one such as `N/A`."""
        return _declared(self.state.item.document)

    @property
    def text(self) -> Any:
        """Return the text that the manifest gives inline; None for one such as `N/A`."""
        return _declared(self.state.item.text)

    @property
    def image(self) -> Any:
        """Return the image that the manifest declares, a URI or a path; None for one such as `N/A`."""
        return _declared(self.state.item.image)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Return the other columns of the manifest."""
        return self.state.item.attributes

    @overload
    def value(self, of: str) -> Any: ...
    @overload
    def value(self, of: type[R]) -> R | None: ...
    def value(self, of: str | type[Any]) -> Any:
        """Return the value of an earlier stage, None where it has none.

        A value of a stage with a role is a `Text`, a `Label` or fetched assets; any other is JSON.

        Args:
            of: the name of a stage; or `Text` or `Label`, for the last stage that produces it and has a value. Vectors
                are not loaded.

        Raises:
            LookupError: there is no earlier stage of this name.
        """
        if isinstance(of, str):
            if of not in self.produces:
                earlier = ", ".join(self.produces) or "none"
                raise LookupError(f"{of!r} is no stage before this one; the earlier ones are {earlier}")
            return self._value_of(of)
        stages = [stage for stage, role in self.produces.items() if role is of]
        values = (self._value_of(stage) for stage in reversed(stages))
        return next((value for value in values if value is not None), None)

    def _value_of(self, stage: str) -> Any:
        value, role = self.state.value(stage), self.produces[stage]
        if value is not None and role is Embedding:
            raise LookupError(f"the vector of {stage} is not loaded for other stages; compute what you need in {stage}")
        return value if value is None or role is None else from_json(role, value)


def _declared(value: Any) -> Any:
    return None if is_placeholder(value) else value
