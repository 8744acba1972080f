"""The version of a model, in one short line, without loading it: two machines with the same files agree.

=========================  ===================================================================================
source                     version
=========================  ===================================================================================
an installed package       its name and version
a file or a folder         its name, and a digest of the content; neither its path nor its time
a name of the Hugging      the name and the commit, as the cache of downloads on this machine has it
Face hub
=========================  ===================================================================================

An image model also has its temperature and threshold. What runs a model, torch or OpenVINO, a card or a processor, is
no part of its version: labels and vectors are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from repli.tasks.fallback import RungError, Unavailable
from repli.tasks.models import image_classifier
from repli.tasks.models.file_digests import LENGTH, digest_of, digest_of_folder
from repli.tasks.models.own_checkpoint import OutputSettings, files_of, read_settings
from repli.tasks.models.text_embedder import locate

_READ_BY_TEXT_MODELS = {".safetensors", ".bin", ".pt", ".json", ".txt", ".model"}
_OTHER_FORMATS = {"onnx", "openvino"}
"""Folders of a text model that nobody here reads."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


def text_version(source: str) -> str | None:
    """Return the version of a text model that runs here; None where it cannot be known."""
    try:
        folder, name = locate(source)
        if source.startswith("package:"):
            return _package_version(name)
        if folder is None:
            return _hub_version(source if "/" in source else f"sentence-transformers/{source}")
        files = [file for file in folder.rglob("*") if file.is_file() and _is_read(file.relative_to(folder))]
        return f"{name} {digest_of_folder(folder, files)[:LENGTH]}"
    except (RungError, OSError):
        return None


def image_version(source: str) -> str | None:
    """Return the version of an image model; None where it cannot be known here."""
    try:
        model, outputs = _image_model(source)
    except (RungError, OSError):
        return None
    small = f" (more below {outputs.least_side} px)" if outputs.least_side else ""
    return model and f"{model}, t={outputs.temperature:g}{small}, from {outputs.threshold:g}"


def _image_model(source: str) -> tuple[str | None, OutputSettings]:
    """Return the model of a source, in words, None where it cannot be known; and how its outputs are read."""
    kind, _, name = source.partition(":")
    if kind == "package":
        outputs = image_classifier.outputs_of_package(name)
        return _package_version(name, shown=name.removesuffix("_pytorch_model")), outputs
    if kind != "timm":
        return None, OutputSettings()
    prefix, _, place = name.partition(":")
    match prefix:
        case "local-dir":
            folder = Path(place).expanduser()
            files = [file for file in folder.iterdir() if file.is_file() and _is_read(file.relative_to(folder))]
            model = f"{folder.name} {digest_of_folder(folder, files)[:LENGTH]}" if files else None
            return model, OutputSettings()
        case "hf-hub" | "hf_hub":
            return _hub_version(*place.partition("@")[::2]), OutputSettings()
    architecture, at, file = name.partition("@")
    if at:
        return _checkpoint_version(architecture, Path(file).expanduser())
    return _timm_version(name), OutputSettings()


def _checkpoint_version(architecture: str, checkpoint: Path) -> tuple[str, OutputSettings]:
    if any(file.exists() and not file.is_file() for file in files_of(checkpoint)):
        raise Unavailable(f"{checkpoint} or a file beside it is no regular file")
    outputs = read_settings(checkpoint)
    vocabulary = outputs.vocabulary
    labels = [vocabulary.name, vocabulary.labels] if vocabulary else []
    content = json.dumps([digest_of(checkpoint), labels])
    digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{architecture} {checkpoint.stem} {digest[:LENGTH]}", outputs


def _package_version(module: str, *, shown: str = "") -> str | None:
    try:
        return f"{shown or module} {version(module)}"
    except PackageNotFoundError:
        return None


def _timm_version(name: str) -> str | None:
    """Return the version of a pretrained name of timm, which is that of its repository on the hub."""
    if "." in name:
        return _hub_version(f"timm/{name}")
    try:  # timm knows which training the bare name means: the one that it has downloaded
        found = sorted(_hub_cache().glob(f"models--timm--{name}.*"))
    except OSError:
        return None
    return _hub_version(found[0].name.removeprefix("models--").replace("--", "/", 1)) if len(found) == 1 else None


def _hub_version(repository: str, revision: str = "") -> str | None:
    """Return the name of a repository of the hub with its commit, as far as this machine has downloaded it."""
    if _COMMIT.fullmatch(revision):
        return f"{repository}@{revision[:LENGTH]}"
    ref = _hub_cache() / f"models--{repository.replace('/', '--')}" / "refs" / (revision or "main")
    try:
        commit = ref.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return f"{repository}@{commit[:LENGTH]}" if _COMMIT.fullmatch(commit) else None


def _hub_cache() -> Path:
    """Return the folder of huggingface_hub's downloads, by its own variables."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    home = Path(os.environ.get("HF_HOME") or caches / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


def _is_read(file: Path) -> bool:
    """Return whether a file, by its path in a model's folder, may be part of the model."""
    is_hidden = any(part.startswith(".") for part in file.parts)
    return file.suffix in _READ_BY_TEXT_MODELS and not is_hidden and file.parts[0] not in _OTHER_FORMATS
