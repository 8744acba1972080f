"""Imports without collections of garbage, and of what is used alone."""

from __future__ import annotations

import gc
import subprocess
import sys

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


def test_what_a_block_made_is_left_out_of_collections() -> None:
    """The first full collection after an import would look through all that it made."""
    program = """
import gc
from repli.tasks.runtime.imports import without_collections
with without_collections():
    import decimal, email.message
frozen = gc.get_freeze_count()
with without_collections():
    import tarfile
print(frozen > 1000, gc.get_freeze_count() <= frozen)
"""
    assert _run(program) == "True True"


def test_a_module_that_is_loaded_on_use() -> None:
    """A module of a package, as `from package import module` finds it; one that is missing stays missing."""
    program = """
import sys
from repli.tasks.runtime.imports import load_on_use
import xml.dom
load_on_use("xml.dom.minidom")
load_on_use("no_such_module")
from xml.dom import minidom
before = "xml.dom.xmlbuilder" in sys.modules
document = minidom.parseString("<a/>")
print(before, "xml.dom.xmlbuilder" in sys.modules, document.documentElement.tagName, "no_such_module" in sys.modules)
"""
    assert _run(program) == "False True a False"


def _run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
