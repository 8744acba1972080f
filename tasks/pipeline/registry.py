"""Find a pipeline by its name: `MODULE:NAME`, or the name of an entry point of the group `repli.pipelines`."""

from __future__ import annotations

import importlib
import sys
import traceback
from contextlib import suppress
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from repli.tasks.fallback import StepError, UsageError
from repli.tasks.pipeline.declaration import DeclarationError
from repli.tasks.pipeline.pipeline import Pipeline

DEFAULT = "repli:default_pipeline"
GROUP = "repli.pipelines"


def installed_pipeline() -> str:
    """Return the name of the installed pipeline, or of the default one where no package brings one.

    Raises:
        UsageError: several are installed.
    """
    names = sorted({entry.name for entry in entry_points(group=GROUP)})
    if len(names) > 1:
        raise UsageError(f"several pipelines are installed; choose one with --pipeline: {', '.join(names)}")
    return names[0] if names else DEFAULT


@lru_cache(maxsize=16)
def load(name: str, folder: Path) -> Pipeline:
    """Return the pipeline of this name, imported once per process.

    Args:
        name: `MODULE:NAME`, or the name of an entry point.
        folder: the folder in which the command was started; Python looks for the module there first.

    Raises:
        UsageError: there is no such pipeline, or its module cannot be imported; the message names file and line.
    """
    module, colon, attribute = (name if ":" in name else _entry_point(name).value).partition(":")
    if module.endswith(".py"):
        raise UsageError(f"pipeline {name!r}: write the module's name without .py, as Python imports it")
    if not (module and colon and attribute):
        raise UsageError(f"pipeline {name!r}: write MODULE:NAME, such as translate:pipeline")
    found: Any = _import(module, name, folder)
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = get_close_matches(part, [one for one in dir(found) if not one.startswith("_")], n=1)
            hint = f"; did you mean {near[0]}?" if near else "; define it there"
            raise UsageError(f"pipeline {name!r}: {module} has no {part!r}{hint}")
        found = getattr(found, part)
    if not isinstance(found, Pipeline):
        raise UsageError(
            f"pipeline {name!r} is a {type(found).__name__}, not a Pipeline; write repli.Pipeline([...]) in {module}"
        )
    return found


def _entry_point(name: str) -> EntryPoint:
    found = entry_points(group=GROUP)
    if name not in found.names:
        installed = ", ".join(sorted(found.names)) or "none is installed"
        raise UsageError(f"pipeline {name!r}: write MODULE:NAME, or the name of an installed pipeline ({installed})")
    return found[name]


def _import(module: str, name: str, folder: Path) -> ModuleType:
    is_own = module.partition(".")[0] != __name__.partition(".")[0]
    if is_own:  # files of a folder that is not needed could hide those of libraries
        with suppress(ValueError):
            sys.path.remove(str(folder))
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
    try:
        imported = importlib.import_module(module)
    except DeclarationError as error:
        raise UsageError(f"pipeline {name!r}: {error}") from None
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise UsageError(
                f"pipeline {name!r}: there is no module {error.name!r} in {folder} or on Python's path; start the "
                "command in its folder, or install it"
            ) from None
        raise UsageError(f"pipeline {name!r}: {_where(error, folder)}{error}; install it") from None
    except (Exception, SystemExit) as error:
        raise UsageError(f"pipeline {name!r}: {_where(error, folder)}{StepError.of(error).line}") from error
    if is_own:
        _check_is_of(folder, imported, name)
    return imported


def _check_is_of(folder: Path, imported: ModuleType, name: str) -> None:
    """Raise UsageError where another module of this name was imported before, from another folder or from Python."""
    there = folder.joinpath(*imported.__name__.split(".")).with_suffix(".py")
    file = getattr(imported, "__file__", None)
    if there.is_file() and file and not there.samefile(file):
        raise UsageError(
            f"pipeline {name!r}: this process has imported {imported.__name__} from {file}, not from {there}; rename "
            "it, or restart the worker"
        )


def _where(error: BaseException, folder: Path) -> str:
    """Return the file and line that raised: the last in the folder, so that no line of a library hides it."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: "
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_import_system(frame.filename)]
    own = [frame for frame in frames if _is_in(folder, frame.filename)] or frames
    return f"{own[-1].filename}, line {own[-1].lineno}: " if own else ""


def _is_in(folder: Path, filename: str) -> bool:
    path = Path(filename)
    return path.is_relative_to(folder) and "site-packages" not in path.parts  # a virtual environment in the folder


def _is_import_system(filename: str) -> bool:
    return filename in {__file__, importlib.__file__} or filename.startswith("<frozen importlib")
