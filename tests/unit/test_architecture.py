"""What the code may depend on, and what starting costs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from repli.tasks.items import STORE
from tests.support import ROOT

PACKAGES = ("flows", "tasks", "blocks")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported_by(statement: str) -> set[str]:
    """The modules that a fresh Python has loaded after the statement, and had not before."""
    code = f"""
import json, sys
before = set(sys.modules)
{statement}
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_imports_point_one_way() -> None:
    """The contracts of pyproject.toml are kept."""
    lint = Path(sys.executable).with_name("lint-imports")
    if not lint.exists():
        pytest.skip("import-linter is not installed")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 kept, 0 broken" in done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_named_after_the_standard_library(path: Path) -> None:
    """A folder of the packages on the path would take the place of what every library imports."""
    names = {path.stem, *path.relative_to(ROOT).parent.parts} - {"__init__"}
    assert not names & sys.stdlib_module_names


def test_the_engine_needs_only_the_standard_library() -> None:
    """No import in it, wherever it stands, names anything else."""
    for path in (ROOT / "tasks" / "fallback").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports relatively"
                modules = [node.module or ""]
            for module in modules:
                is_its_own = module.startswith("repli.tasks.fallback")
                assert is_its_own or module.partition(".")[0] in sys.stdlib_module_names, f"{path}: {module}"


def test_the_engine_loads_nothing_else() -> None:
    """A newcomer's `import repli.tasks.fallback` brings no library and no other part of the project along."""
    loaded = imported_by("import repli.tasks.fallback")
    assert "repli.tasks.fallback.runner" in loaded
    assert not {module.partition(".")[0] for module in loaded} - sys.stdlib_module_names - {"repli"}
    own = {module for module in loaded if module.startswith("repli.")}
    assert all(module == "repli.tasks" or module.startswith("repli.tasks.fallback") for module in own)


def test_the_command_line_starts_light() -> None:
    """A usage error, or `--help`, waits for none of the heavy libraries."""
    loaded = {module.partition(".")[0] for module in imported_by("import repli.flows.cli.app")}
    heavy = {"prefect", "torch", "timm", "great_expectations", "dask", "distributed", "sqlalchemy", "numpy", "pandas"}
    assert "repli" in loaded
    assert not loaded & (heavy | {"matplotlib", "pyarrow", "sklearn", "transformers", "rich"})


def test_the_stages_start_without_the_models() -> None:
    """A worker that resumes stored items, and `repli status`, never pay for torch or Great Expectations."""
    loaded = {
        module.partition(".")[0]
        for module in imported_by("import repli.tasks.stages.default, repli.tasks.execution.stage_runner")
    }
    assert "sqlalchemy" in loaded
    assert not loaded & {"prefect", "torch", "timm", "great_expectations", "dask", "transformers", "sklearn", "pandas"}


def test_the_packages_say_that_they_are_typed() -> None:
    """`py.typed` is in what others import."""
    assert (ROOT / "repli" / "py.typed").exists()


def test_only_the_stages_know_their_names() -> None:
    """Storage, search, export, flows and dashboard go by what a stage produces: a pipeline may have other stages."""
    names = {"fetch", "validate", "extract_text", "classify_image", "embed_text", STORE}
    of_the_stages = ("tasks/stages", "tasks/storage/migrations", "flows/cli/demo")
    named = [
        f"{where}:{node.lineno}"
        for folder in ("tasks", "flows", "blocks")
        for path in (ROOT / folder).rglob("*.py")
        if not (where := str(path.relative_to(ROOT))).startswith(of_the_stages)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if node.value.partition(".")[0].partition("=")[0] in names
    ]
    assert [place.partition(":")[0] for place in named] == ["tasks/items.py"], named  # the constant `STORE`
