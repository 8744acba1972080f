"""Find a pipeline by its name: a module in the folder of the command, or an installed package's entry point."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from repli.tasks.fallback import UsageError
from repli.tasks.pipeline import Pipeline, registry
from repli.tasks.stages.default import default_pipeline
from tests.support.own_pipeline import modules_of

OWN = """
    import repli

    own = repli.Stage("own", input=lambda item: item.name)


    @own.rung(time_limit_s=5)
    def rung(names):
        return names


    pipeline = repli.Pipeline([own])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose modules are forgotten after the test."""
    with modules_of(tmp_path):
        yield tmp_path


@pytest.fixture
def load(folder: Path) -> Callable[[str], Pipeline]:
    """Loads a pipeline as a command does that was started in the folder."""

    def load(name: str) -> Pipeline:
        return registry.load(name, folder)

    return load


def write(path: Path, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(source).lstrip("\n"), encoding="utf-8")
    return path


def install(folder: Path, package: str, **entries: str) -> None:
    """Make an installed package of the folder, with these entry points."""
    lines = [f"{name} = {value}" for name, value in entries.items()]
    write(folder / f"{package}-1.0.dist-info" / "METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    write(folder / f"{package}-1.0.dist-info" / "entry_points.txt", "\n".join(["[repli.pipelines]", *lines, ""]))


class TestLoad:
    """MODULE:NAME."""

    def test_the_default_pipeline(self, load: Callable[[str], Pipeline]) -> None:
        """It has a name like any other."""
        assert load(registry.DEFAULT) is default_pipeline

    def test_a_module_of_the_folder(self, folder: Path, load: Callable[[str], Pipeline]) -> None:
        """It is imported once, so that all parts of a process have the same pipeline."""
        write(folder / "own_one.py", OWN)
        found = load("own_one:pipeline")
        assert found.names == ("own", "store")
        assert load("own_one:pipeline") is found
        assert sys.modules["own_one"].pipeline is found

    def test_a_module_of_a_package(self, folder: Path, load: Callable[[str], Pipeline]) -> None:
        """With a dotted path to the module, and to the pipeline in it."""
        write(folder / "own_two" / "stages.py", f"{dedent(OWN)}\nclass Shop:\n    nightly = pipeline\n")
        assert load("own_two.stages:Shop.nightly").names == ("own", "store")

    def test_a_module_may_import_its_neighbours(self, folder: Path, load: Callable[[str], Pipeline]) -> None:
        """As in a script that is started there."""
        write(folder / "own_words.py", "WORDS = {'cat': 'chat'}\n")
        write(folder / "own_three.py", f"import own_words\n{dedent(OWN)}")
        assert load("own_three:pipeline").names == ("own", "store")


class TestNotFound:
    """One line that names the pipeline and says what to do."""

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("wrong:", "write MODULE:NAME, such as translate:pipeline"),
            (":pipeline", "write MODULE:NAME, such as translate:pipeline"),
            ("wrong", "write MODULE:NAME, or the name of an installed pipeline (none is installed)"),
            ("no_such_module:pipeline", "there is no module 'no_such_module' in {folder} or on Python's path; start "),
            ("no_such.module:pipeline", "there is no module 'no_such' in {folder} or on Python's path; start "),
            ("os.nothing:pipeline", "there is no module 'os.nothing' in {folder} or on Python's path; start "),
            ("wrong:pipelin", "wrong has no 'pipelin'; did you mean pipeline?"),
            ("wrong:nothing", "wrong has no 'nothing'; define it there"),
            ("wrong:number.real_part", "wrong has no 'real_part'; did you mean real?"),
            ("repli:default_pipelin", "repli has no 'default_pipelin'; did you mean default_pipeline?"),
        ],
    )
    def test_a_wrong_name(self, name: str, reason: str, folder: Path, load: Callable[[str], Pipeline]) -> None:
        """Nothing of that name, with the nearest one that there is."""
        write(folder / "wrong.py", f"{dedent(OWN)}\nnumber = 3\n")
        with pytest.raises(UsageError) as raised:
            load(name)
        assert str(raised.value).startswith(f"pipeline {name!r}: {reason.format(folder=folder)}")

    def test_what_is_no_pipeline(self, folder: Path, load: Callable[[str], Pipeline]) -> None:
        """The name of a stage in place of the pipeline's."""
        write(folder / "wrong_kind.py", OWN)
        with pytest.raises(UsageError) as raised:
            load("wrong_kind:own")
        expected = "pipeline 'wrong_kind:own' is a Stage, not a Pipeline; write repli.Pipeline([...]) in wrong_kind"
        assert str(raised.value) == expected

    @pytest.mark.parametrize(
        ("source", "line", "reason"),
        [
            ("import repli\nimport no_such_library\n", 2, "No module named 'no_such_library'; install it"),
            ("x = = 1\n", 1, "SyntaxError: invalid syntax"),
            ("x = 1\nraise RuntimeError('at the top')\n", 2, "RuntimeError: at the top"),
            ("def start():\n    return 1 / 0\n\nstart()\n", 2, "ZeroDivisionError: division by zero"),
            ("import json\n\npipeline = json.loads('{')\n", 3, "JSONDecodeError: Expecting property name"),
            ("raise ValueError('one\\n  line')\n", 1, "ValueError: one line"),
            ("import sys\nsys.exit('usage: wrong.py FILE')\n", 2, "SystemExit: usage: wrong.py FILE"),
            ("import repli\nrepli.Stage('a b', input=len)\n", 2, "stage 'a b': a name begins with a letter"),
        ],
        ids=["library", "syntax", "top", "function", "in a library", "long", "exit", "declaration"],
    )
    def test_a_module_that_breaks(
        self, source: str, line: int, reason: str, folder: Path, load: Callable[[str], Pipeline]
    ) -> None:
        """The user's own line, also where a library raised; a script that ends the process ends no worker."""
        path = write(folder / "wrong_module.py", source)
        with pytest.raises(UsageError) as raised:
            load("wrong_module:pipeline")
        message = str(raised.value)
        assert message.startswith(f"pipeline 'wrong_module:pipeline': {path}, line {line}: {reason}")
        assert "\n" not in message

    def test_a_library_in_the_folder_hides_no_line(
        self, folder: Path, load: Callable[[str], Pipeline], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its virtual environment often lies in it."""
        library = write(
            folder / ".venv" / "site-packages" / "own_library.py", "def fail():\n    raise OSError('deep')\n"
        )
        monkeypatch.syspath_prepend(library.parent)
        path = write(folder / "wrong_call.py", "import own_library\n\nown_library.fail()\n")
        with pytest.raises(UsageError) as raised:
            load("wrong_call:pipeline")
        assert str(raised.value) == f"pipeline 'wrong_call:pipeline': {path}, line 3: OSError: deep"

    def test_a_module_that_was_mended_is_found(self, folder: Path, load: Callable[[str], Pipeline]) -> None:
        """A refusal is not kept: a notebook goes on in the same process."""
        write(folder / "own_four.py", "x = = 1\n")
        with pytest.raises(UsageError):
            load("own_four:pipeline")
        write(folder / "own_four.py", f"# mended\n{dedent(OWN)}")
        assert load("own_four:pipeline").names == ("own", "store")


class TestInstalled:
    """An entry point of the group `repli.pipelines`."""

    def test_none(self) -> None:
        """Then it is the default one."""
        assert registry.installed_pipeline() == "repli:default_pipeline"

    def test_one(self, folder: Path, load: Callable[[str], Pipeline], monkeypatch: pytest.MonkeyPatch) -> None:
        """It is chosen by itself, and loaded by its name."""
        write(folder / "own_package.py", OWN)
        install(folder, "own_package", shop="own_package:pipeline")
        monkeypatch.syspath_prepend(folder)
        assert registry.installed_pipeline() == "shop"
        assert load("shop") is sys.modules["own_package"].pipeline
        with pytest.raises(UsageError, match=r"^pipeline 'store': write MODULE:NAME, or .* pipeline \(shop\)$"):
            load("store")

    def test_several(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The user is asked which."""
        install(folder, "own_shop", shop="own_shop:pipeline", archive="own_shop:archive")
        monkeypatch.syspath_prepend(folder)
        with pytest.raises(
            UsageError, match=r"^several pipelines are installed; choose one with --pipeline: archive, shop$"
        ):
            registry.installed_pipeline()

    def test_a_wrong_one(self, folder: Path, load: Callable[[str], Pipeline], monkeypatch: pytest.MonkeyPatch) -> None:
        """A package whose entry point names a module alone."""
        install(folder, "own_wrong", module="own_wrong")
        monkeypatch.syspath_prepend(folder)
        with pytest.raises(UsageError, match=r"^pipeline 'module': write MODULE:NAME, such as translate:pipeline$"):
            load("module")
