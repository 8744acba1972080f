"""Imports without collections of garbage."""

from __future__ import annotations

import gc

import pytest

from repli.tasks.runtime.imports import without_collections


def test_collections_are_off_in_the_block_alone() -> None:
    """After an import that failed, and around another block, too."""
    with pytest.raises(ImportError), without_collections():
        with without_collections():
            assert not gc.isenabled()
        assert not gc.isenabled(), "the inner block has not turned them on"
        raise ImportError
    assert gc.isenabled()
