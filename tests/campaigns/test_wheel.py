"""The package as its user installs it: a wheel, in an environment without the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.command_line import environment, write_manifest

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that pip builds of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    [found] = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment where the wheel is installed, and what it depends on is there.

    The dependencies are those of these tests, by a path that no editable install works through.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def test_its_one_name_is_repli(wheel: Path) -> None:
    """Nothing else is put beside other people's packages, and what is no code is there too."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"repli"}
    assert {
        "repli/py.typed",
        "repli/deployments/prefect.yaml",
        "repli/deployments/automations.yaml",
        "repli/tasks/storage/migrations/script.py.mako",
    } <= set(names)
    assert len([name for name in names if name.startswith("repli/tasks/storage/migrations/versions/")]) >= 8


def test_it_runs_beside_packages_of_the_same_folder_names(installed: Path, tmp_path: Path) -> None:
    """In a folder that holds a `flows`, a `tasks` and a `blocks` package and a `tasks.py` of somebody's own, each of
    which may not be imported, a run stores its items: its processes import `repli` alone."""
    write_manifest(tmp_path, 2)
    for package in ("flows", "tasks", "blocks", "deployments"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(f"raise SystemExit('{package} of somebody else')\n")
    (tmp_path / "tasks.py").write_text("raise SystemExit('tasks.py of somebody else')\n")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=tmp_path, env=environment(tmp_path / "home"), capture_output=True, text=True, check=False
        )

    done = run(str(installed / "repli"), "run", "manifest.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stored"] == 2
    shown = run(str(installed / "python"), "-m", "repli", "status", "--json")
    assert json.loads(shown.stdout)["stored"] == 2, shown.stderr
    where = run(str(installed / "python"), "-c", "import repli.flows; print(repli.flows.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(installed.parent), "the wheel, and not the checkout"
