"""Imports of large libraries, without the collections of garbage that they set off."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Iterator[None]:
    """Collect no garbage while the block runs.

    An import makes some hundred thousand objects that stay: collections that find nothing take a tenth of the time of
    the imports of Prefect and Great Expectations (`python -c "import gc; gc.disable(); import great_expectations"`).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
