"""Imports of large libraries: without the collections of garbage that they set off, and only of what is used."""

from __future__ import annotations

import gc
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Iterator[None]:
    """Collect no garbage while the block runs, and leave what it made out of later collections.

    An import makes some hundred thousand objects that stay: collections that find nothing take a tenth of the time of
    the imports of Prefect and Great Expectations (`python -c "import gc; gc.disable(); import great_expectations"`),
    and the first after the block would take up to half a second more. A process leaves out what its first block made;
    a further one is for imports that were done before.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
        if was_enabled:
            gc.enable()


def load_on_use(module: str) -> None:
    """Make imports of `module` cost nothing until something uses it: it is loaded with the first look at what it has.

    For a module that a library imports for what is not used here. Nothing happens where it is loaded already, or is not
    installed.

    Example:
        >>> load_on_use("wave")
        >>> import wave  # not loaded yet
        >>> wave.WAVE_FORMAT_PCM
        1
    """
    if module in sys.modules or (spec := importlib.util.find_spec(module)) is None or spec.loader is None:
        return
    spec.loader = importlib.util.LazyLoader(spec.loader)
    lazy = importlib.util.module_from_spec(spec)
    sys.modules[module] = lazy
    spec.loader.exec_module(lazy)
    package, _, name = module.rpartition(".")
    if package:
        setattr(sys.modules[package], name, lazy)
