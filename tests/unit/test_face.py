"""`import repli`: its names, their docstrings, and what loading them costs."""

from __future__ import annotations

import doctest
import inspect
import json
import subprocess
import sys
from typing import Any

import numpy as np
import prefect
import pytest

import repli
from repli.tasks.fallback import StoreError
from tests.support import ROOT
from tests.support.own_pipeline import stage_by

NAMES = [
    "Breaker",
    "DeclarationError",
    "Declined",
    "Embedding",
    "EnrichedItem",
    "InvalidItem",
    "ItemError",
    "Label",
    "NotHere",
    "OutOfMemory",
    "Pipeline",
    "RepliError",
    "Rule",
    "Served",
    "Stage",
    "StageContext",
    "StepResult",
    "StoreError",
    "Text",
    "TimedOut",
    "Unavailable",
    "UsageError",
    "default_pipeline",
    "fallback",
    "run",
]
STARTS_A_RUN = {"run"}
"""Names whose example needs a catalogue and a cluster: it is read here, and not run."""
IMPORT_LIMIT_S = 0.3


def fresh(code: str) -> Any:
    """Return what a fresh Python prints as JSON."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_names() -> None:
    """A new name is a decision: it is listed here, in `__all__`, and for the completion of an editor."""
    assert repli.__all__ == NAMES
    assert dir(repli) == NAMES
    assert {name: getattr(repli, name) for name in NAMES}.keys() == set(NAMES)
    assert set(NAMES) <= {name for name, value in vars(repli).items() if value is getattr(repli, name)}


def test_every_name_is_where_the_type_checker_sees_it() -> None:
    """The names that are imported lazily are those that are imported for types."""
    typed = inspect.getsource(repli).partition("if TYPE_CHECKING:")[2].partition("\n_HOMES")[0]
    words = set(typed.replace(",", " ").replace("(", " ").replace(")", " ").split())
    assert set(NAMES) <= words


def test_an_unknown_name_lists_the_known_ones() -> None:
    """As an attribute, and in a `from` import."""
    with pytest.raises(
        AttributeError, match=r"^repli has no 'Chain'; it has Breaker, DeclarationError, .*, fallback, run$"
    ):
        repli.Chain  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Chain'"):
        from repli import Chain  # noqa: F401


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_an_example(name: str) -> None:
    """In its own docstring; the example runs, and gives what it shows."""
    value = getattr(repli, name)
    docstring = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    assert docstring
    assert docstring.partition("\n")[0].endswith(".")

    def dictionary(name: str) -> str:
        return name

    face = {one: getattr(repli, one) for one in NAMES}
    declared = {"translate": stage_by("translate"), "stage": repli.Stage("stage", input=len), "dictionary": dictionary}
    imported = {"np": np, "flow": prefect.flow, "task": prefect.task, "StoreError": StoreError}
    globs = {**face, **declared, **imported}
    test = doctest.DocTestParser().get_doctest(docstring, globs, name, None, 0)
    assert test.examples
    if name not in STARTS_A_RUN:
        said: list[str] = []
        assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append).failed == 0, "".join(said)


def test_the_example_of_the_package_is_a_pipeline() -> None:
    """Copied from the docstring it declares a stage of two rungs, and inserts it."""
    example = inspect.cleandoc((repli.__doc__ or "").partition("::\n")[2])
    space: dict[str, Any] = {}
    exec(example, space)
    assert space["pipeline"].names[2:4] == ("extract_text", "translate")
    assert space["translate"].chain.rung_names == ("service", "dictionary", "skip")
    assert [result.value for result in space["translate"].try_on(["cat", "axolotl"])] == ["chat", None]


def test_it_is_light() -> None:
    """`import repli` loads no library, and takes no time that a command would show."""
    code = """
import json, sys, time
before = set(sys.modules)
began = time.perf_counter()
import repli
seconds = time.perf_counter() - began
print(json.dumps([seconds, sorted({name.partition(".")[0] for name in set(sys.modules) - before})]))
"""
    seconds, loaded = fresh(code)
    assert set(loaded) - sys.stdlib_module_names == {"repli"}
    assert min(seconds, *(fresh(code)[0] for _ in range(2))) < IMPORT_LIMIT_S


def test_no_part_needs_the_default_pipeline() -> None:
    """Blocks, flows and the dashboard are made from the pipeline of the run or the store."""
    modules = ["blocks", "flows.enrich", "flows.drill", "flows.reprocess", "flows.dashboard.app"]
    code = f"""
import importlib, json, sys
loaded = {{}}
for module in {modules}:
    importlib.import_module(f"repli.{{module}}")
    loaded[module] = [name for name in sys.modules if name.startswith("repli.tasks.stages")]
print(json.dumps(loaded))
"""
    assert fresh(code) == {module: [] for module in modules}
