"""Locate and read the documents and images that a manifest declares, under limits.

A declared value is a path, a URI, or (a document only) the text itself. `locate` classifies it without using the
network and refuses forbidden locations; `read` returns the bytes. `repli.tasks.sources.web` reads http and https.
"""

from __future__ import annotations

import base64
import binascii
import errno
import os
import re
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

from repli.tasks.fallback import InvalidItem, ItemError
from repli.tasks.items import clean_text
from repli.tasks.settings import FetchLimits
from repli.tasks.text.html_text import has_markup
from repli.tasks.text.xml_text import begins_as_xml

WEB_SCHEMES = frozenset({"http", "https"})
DRIVERS: Mapping[str, str] = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "hf": "huggingface_hub",
}
"""The remote schemes that fsspec may open, each with the package of its driver. No local and no chained schemes."""

CHUNK_BYTES = 1024 * 1024
HIDDEN = "***@"
"""The credentials in an address, as they are stored and shown."""
MAX_SHOWN_CHARACTERS = 200
MAX_PATH_CHARACTERS = 255

_URI = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_CHAINED = re.compile(r"(?:[a-z][a-z0-9+.-]*::)+[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_DATA = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)?(?P<options>(?:;[^,;\s]+)*),", re.IGNORECASE)
_CHARSET = re.compile(r";charset=([^;]+)", re.IGNORECASE)
# Before the last @ of the host. A / ? or # in a password ends the host for a reader of the address: NAME: is then
# followed by no port, and all before the last @ is taken for the password.
_PASSWORD = re.compile(r"(?<=://)(?:[^/?#]*@|[^/?#@:\[]*:(?![0-9]*(?:[/?#]|\Z))\S*@)")
_DOCUMENT_SUFFIX = re.compile(r"\.(html?|xhtml|pdf|txt|md|xml)$", re.IGNORECASE)
_SUFFIX_AND_QUERY = re.compile(r"\.(html?|xhtml|pdf|txt|md|xml)[?#]\S*$", re.IGNORECASE)
_FILE_SUFFIX = re.compile(
    r"[^./]\.(docx?|odt|rtf|epub|tex|rst|log|csv|tsv|jsonl?|xlsx?|ods|pptx?|odp|ps|djvu|mht|mhtml|eml|msg|ya?ml|"
    r"jpe?g|png|gif|webp|tiff?|bmp|svg|avif|heic|zip|gz)$",
    re.IGNORECASE,
)
_ANY_SUFFIX = re.compile(r"[^./]\.[a-z][a-z0-9]{0,7}$", re.IGNORECASE)
_PATH_START = re.compile(r"\A\.{0,2}/")
_WEB_ADDRESS = re.compile(r"(?:www(?:\.[a-z0-9-]+)+|[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,}/)\S*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes, and their declared media type and encoding if there are any."""

    data: bytes = field(repr=False)
    media_type: str | None = None
    charset: str | None = None


@dataclass(frozen=True, slots=True)
class InlineText:
    """What a manifest declares as a text: whatever it looks like, it is no path and no URI."""

    text: Any


@dataclass(frozen=True, slots=True)
class Place:
    """The location of one asset.

    `uri` is absolute and has no password, so it may be stored and shown. `address` is the path or the complete URI
    to open. `declared` is the manifest's spelling, for messages. `scheme` is `file` for a path.
    """

    uri: str
    address: str = field(repr=False)
    declared: str
    scheme: str

    @property
    def is_web(self) -> bool:
        """Return whether `repli.tasks.sources.web` reads this place."""
        return self.scheme in WEB_SCHEMES

    @property
    def origin(self) -> str:
        """Return the scheme and host of a web address, in lower case; the empty string for every other place."""
        return self.uri.partition("://")[2].partition("/")[0].lower() if self.is_web else ""

    @property
    def credentials(self) -> str:
        """Return the text before the host of the address, `NAME:PASSWORD@`; it is empty where there is none."""
        found = None if self.scheme == "file" else _PASSWORD.search(self.address)
        return found[0] if found else ""


def locate(value: Any, folder: str, limits: FetchLimits, *, may_be_text: bool) -> Content | Place:
    """Return the location of a declared value, or its bytes if the manifest carries them.

    ======================================================================  =============
    declared value                                                          result
    ======================================================================  =============
    `InlineText`                                                            its text
    ``data:[TYPE][;base64],…``                                              its own bytes
    a single line that begins with ``SCHEME://``                            a URI
    a single line of at most 255 characters, and one of: a file of that     a path
    name is in the folder; it ends in .html .htm .xhtml .pdf .txt .md
    .xml; it has no white space, and ends in another suffix of files, or
    has a / and any suffix, or begins with / ./ or ../
    a single word as ``www.shop.test`` or ``shop.test/lamp``                refused
    any other, if `may_be_text`: ``Node.js`` and ``amazon.com`` too         the text
    any other                                                               a path
    ======================================================================  =============

    So a word with a dot is a text, as long as no such file is in the folder. A web address without ``https://`` is
    refused and not taken for a text: it was meant to be read.

    Paths are relative to `folder`. With symbolic links resolved they must still be in it, unless the limits allow
    files outside.

    Raises:
        InvalidItem: The value has the wrong type, an unsupported scheme or a forbidden location; the message says
            what to do.
    """
    if isinstance(value, InlineText):
        if not isinstance(value.text, str):
            raise InvalidItem(f"the manifest's text is of type {type(value.text).__name__}; write it as a string")
        return _text_content(value.text, limits)
    if not isinstance(value, str):
        wanted = "text, a path or a URI" if may_be_text else "a path or a URI"
        raise InvalidItem(f"the manifest declares a value of type {type(value).__name__}; write {wanted} as a string")
    text = value.strip()
    is_line = len(text.splitlines()) == 1
    if data := _DATA.match(text):
        return _decode_data_uri(data, text[data.end() :], limits)
    if is_line and (_URI.match(text) or _CHAINED.match(text)):
        _check_characters(text)
        return _locate_uri(text, folder, limits)
    if may_be_text and not (is_line and _looks_like_path(text, folder)):
        if _WEB_ADDRESS.match(text):
            shown = shorten(text)
            raise InvalidItem(f"{shown} is a web address without its scheme; write https://{shown}")
        return _text_content(value, limits)
    _check_characters(text)
    return _locate_file(text, text, folder, limits)


def _text_content(text: str, limits: FetchLimits) -> Content:
    content = clean_text(text).encode()
    check_size(len(content), "the text", limits)
    media_type = "application/xml" if begins_as_xml(text) else "text/html" if has_markup(text) else "text/plain"
    return Content(content, media_type, "utf-8")


def hide_password(uri: str) -> str:
    """Return `uri` with the credentials before its host replaced by `***`."""
    return _PASSWORD.sub(HIDDEN, uri)


def check_size(size: int, shown: str, limits: FetchLimits) -> None:
    """Raise `ItemError` if `size`, in bytes, is above the limit."""
    if size > limits.max_bytes:
        raise ItemError(f"{shown} is larger than {limits.max_bytes} bytes; raise REPLI_FETCH_MAX_BYTES or remove it")


def timeout_error(shown: str, limits: FetchLimits) -> ItemError:
    """Return the error for an asset whose reading passed its deadline."""
    return ItemError(f"{shown} took longer than {limits.time_limit_s:g} s; try later or raise REPLI_FETCH_TIME_LIMIT_S")


def read(place: Place, limits: FetchLimits, drivers: Mapping[str, str] = DRIVERS) -> Content:
    """Read a regular file, or a remote object with one of the `drivers`. Web addresses are read by `Web.read`.

    Raises:
        ItemError: Reading failed or exceeded the limits; the message names the place and the next step.
    """
    if place.scheme == "file":
        return Content(_read_file(place, limits))
    return Content(_read_remote(place, limits, drivers[place.scheme]))


def _read_file(place: Place, limits: FetchLimits) -> bytes:
    try:
        opener = _open_without_blocking if limits.allow_outside_files else _open_without_links
        with open(place.address, "rb", opener=opener) as file:
            mode = os.fstat(file.fileno()).st_mode  # of the open file: its path may have been replaced meanwhile
            if not stat.S_ISREG(mode):
                raise InvalidItem(f"{place.declared} is a device or a pipe, not a regular file; name a regular file")
            content = file.read(limits.max_bytes + 1)
    except _Replaced:
        raise ItemError(
            f"{place.declared} leads to another place than when it was checked, through a symbolic link; run it again"
        ) from None
    except (FileNotFoundError, NotADirectoryError):
        raise ItemError(
            f"there is no file {place.declared}; put it there or correct the manifest (paths start in its folder)"
        ) from None
    except IsADirectoryError:
        raise InvalidItem(f"{place.declared} is a folder; name a file in it") from None
    except PermissionError:
        raise ItemError(f"{place.declared} is not readable by this user; change its permissions") from None
    except OSError as error:
        raise ItemError(f"{place.declared} cannot be read ({error.strerror}); correct it or check the disk") from error
    check_size(len(content), place.declared, limits)
    return content


class _Replaced(OSError):
    """A part of a resolved path has become a symbolic link."""


def _open_without_blocking(path: str, flags: int) -> int:
    """Open a file in non-blocking mode: opening a named pipe without a writer would block."""
    return os.open(path, flags | os.O_NONBLOCK)


def _open_without_links(path: str, flags: int) -> int:
    """Open a file by its resolved path, and follow no symbolic link on the way.

    No part of the path was a link when it was checked. One that has become a link since could lead out of the
    manifest's folder.

    Raises:
        _Replaced: A part of the path is a symbolic link.
    """
    parts = Path(path).parts
    folder = os.open(parts[0], _FOLDER_FLAGS)
    try:
        for part in parts[1:-1]:
            inner = os.open(part, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(parts[-1], flags | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP or (error.errno == errno.ENOTDIR and _is_link(error.filename, folder)):
            raise _Replaced(error.errno, error.strerror) from error
        raise
    finally:
        os.close(folder)


def _is_link(name: str, folder: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


_FOLDER_FLAGS = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)


def _read_remote(place: Place, limits: FetchLimits, package: str) -> bytes:
    deadline = time.monotonic() + limits.time_limit_s
    body = bytearray()
    try:
        import fsspec  # takes 0.1 s, and most manifests do not need it

        filesystem, path = fsspec.core.url_to_fs(place.address)
        with filesystem.open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                body += chunk
                check_size(len(body), place.declared, limits)
                if time.monotonic() > deadline:
                    raise timeout_error(place.declared, limits)
    except ItemError:
        raise
    except ImportError as error:
        raise ItemError(
            f"{place.declared} needs the package {package}; install it where the workers run (pip install {package})"
        ) from error
    except FileNotFoundError:
        raise ItemError(f"there is no object {place.declared}; put it there or correct the manifest") from None
    except Exception as error:  # each driver raises its own error types, always about this one object
        reason = hide_password(str(error)) or type(error).__name__
        raise ItemError(f"{place.declared} cannot be read ({reason}); check the credentials and the network") from error
    return bytes(body)


def _decode_data_uri(data: re.Match[str], payload: str, limits: FetchLimits) -> Content:
    """Decode a data URI (RFC 2397). White space and missing padding are accepted."""
    octets = unquote_to_bytes(clean_text(payload))
    if data["options"].lower().endswith(";base64"):
        compact = b"".join(octets.split()).rstrip(b"=")
        try:
            octets = base64.b64decode(compact + b"=" * (-len(compact) % 4), validate=True)
        except binascii.Error as error:
            raise InvalidItem(f"the data URI is not in base64 ({error}); encode it again") from None
    check_size(len(octets), "the data URI", limits)
    charset = _CHARSET.search(data["options"])
    return Content(octets, (data["type"] or "text/plain").lower(), charset[1] if charset else None)


def _locate_uri(uri: str, folder: str, limits: FetchLimits) -> Place:
    declared = shorten(hide_password(uri))
    scheme = uri.partition(":")[0].lower()
    if "::" not in uri and scheme == "file":
        try:
            parts = urlsplit(uri)
        except ValueError as error:
            raise InvalidItem(f"{declared} is not a URI ({error}); correct it") from None
        if parts.netloc not in {"", "localhost"}:
            raise InvalidItem(f"{declared} is on another machine ({parts.netloc}); write file:///PATH")
        path = url2pathname(parts.path)
        _check_characters(path)
        return _locate_file(path, declared, folder, limits)
    if scheme in WEB_SCHEMES or (scheme in DRIVERS and "::" not in uri):
        return Place(hide_password(uri), uri, declared, scheme)
    allowed = ", ".join(f"{name}://" for name in (*sorted(WEB_SCHEMES), "file", *DRIVERS))
    raise InvalidItem(f"{declared} has an unsupported scheme; write a path, or one of {allowed}")


def _locate_file(path: str, declared: str, folder: str, limits: FetchLimits) -> Place:
    root = Path(os.path.realpath(folder or os.curdir))
    full = Path(os.path.realpath(root / path))  # Path.resolve raises on circular links
    if not (limits.allow_outside_files or full.is_relative_to(root)):
        raise InvalidItem(
            f"{shorten(declared)} is outside of the manifest's folder; move it into the folder, or set "
            "REPLI_ALLOW_OUTSIDE_FILES=1 if you trust this manifest"
        )
    return Place(full.as_uri(), str(full), shorten(declared), "file")


def _looks_like_path(line: str, folder: str) -> bool:
    if len(line) > MAX_PATH_CHARACTERS or "://" in line:  # a sentence with an address in it
        return False
    if _DOCUMENT_SUFFIX.search(line) or os.path.isfile(f"{folder or '.'}/{line}"):  # noqa: PTH113  Path.is_file raises
        return True
    if len(line.split()) != 1:
        return False
    has_path = bool(_ANY_SUFFIX.search(line)) and "/" in line and not _WEB_ADDRESS.match(line)
    return has_path or any(pattern.search(line) for pattern in (_FILE_SUFFIX, _PATH_START, _SUFFIX_AND_QUERY))


def _check_characters(text: str) -> None:
    """Raise `InvalidItem` for characters that are invalid in every path and URI."""
    if text != clean_text(text):
        raise InvalidItem(f"{shorten(clean_text(text))} holds a null byte or a lone surrogate; correct it")


def shorten(text: str) -> str:
    """Return `text` as it is shown in messages: cut after `MAX_SHOWN_CHARACTERS`."""
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}…"
