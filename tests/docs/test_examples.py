"""The examples in docstrings are run, and no public class of the engine is without one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from enum import Enum
from pathlib import Path

import pytest

import repli.tasks.fallback

MODULES = [
    *(f"repli.tasks.fallback.{module.name}" for module in pkgutil.iter_modules(repli.tasks.fallback.__path__)),
    "repli.flows.cli.progress",
    "repli.flows.dispatch.stage_counts",
    "repli.flows.server.phases",
    "repli.flows.server.server_errors",
    "repli.tasks.storage.runs",
]


def is_protocol(cls: type) -> bool:
    return getattr(cls, "_is_protocol", False)


def exported_classes() -> list[type]:
    """The classes that the engine exports, but for enums and protocols. An alias of a type is no class."""
    exported = [getattr(repli.tasks.fallback, name) for name in repli.tasks.fallback.__all__]
    classes = [one for one in exported if inspect.isclass(one)]
    return [cls for cls in classes if not issubclass(cls, Enum) and not is_protocol(cls)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example in the module's docstrings gives what it shows. Those of the engine write no file."""
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(importlib.import_module(name)).failed == 0
    assert not (name.startswith("repli.tasks.fallback") and list(tmp_path.iterdir()))


@pytest.mark.parametrize("cls", exported_classes(), ids=lambda cls: cls.__name__)
def test_every_exported_class_has_an_example(cls: type) -> None:
    """The class's own docstring has it: an example of a method is not counted."""
    assert doctest.DocTestParser().get_examples(cls.__doc__ or "")
