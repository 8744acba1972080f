"""What declared values are, what may be read of them, and how."""

from __future__ import annotations

import base64
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from repli.tasks.fallback import InvalidItem, ItemError
from repli.tasks.settings import FetchLimits
from repli.tasks.sources.locate import Content, InlineText, Place, hide_password, locate, read

LIMITS = FetchLimits()
TRUSTING = FetchLimits(allow_outside_files=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest's folder: a page, a file without a suffix, a folder, and a secret beside it."""
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "catalogue"
    (folder / "pages").mkdir(parents=True)
    (folder / "pages" / "a page.html").write_text("<html>a</html>")
    (folder / "README").write_text("read me")
    return folder


def place(value: str, folder: Path | str = "", limits: FetchLimits = LIMITS, *, may_be_text: bool = False) -> Place:
    found = locate(value, str(folder), limits, may_be_text=may_be_text)
    assert isinstance(found, Place)
    return found


def content(value: str, folder: Path | str = "", limits: FetchLimits = LIMITS, *, may_be_text: bool = False) -> Content:
    found = locate(value, str(folder), limits, may_be_text=may_be_text)
    assert isinstance(found, Content)
    return found


@pytest.mark.parametrize(
    "text",
    [
        "A lamp. Made of brass.",
        "lamp",
        "v2.0",
        "Wow...",
        "one line\nof two.html",
        "http://shop.test/ is the first line\nof a text",
        "data: the new oil, some say",
        "see and/or read",
        "C++: std::vector::push",
        "x" * 252 + ".pdf",
        "pages",
        "Node.js",
        "amazon.com",
        "U.S.A",
        "ASP.NET",
        "socket.io",
        "The manual is at https://shop.test/manual.pdf",
        "#1",
        "why.html? no",
    ],
)
def test_what_is_text(folder: Path, text: str) -> None:
    """A document that neither looks like a path nor is a URI is its own content, as it stands."""
    assert content(text, folder, may_be_text=True) == Content(text.encode(), "text/plain", "utf-8")


@pytest.mark.parametrize(
    "path",
    [
        "README",
        "pages/a page.html",
        "pages/x.dat",
        "photo.JPG",
        "x.docx",
        "no such page.HTM",
        "x.pdf",
        "notes.md",
        "x.odt",
        "../x",
        "./x",
        "/x",
        "  x.xml ",
        "x.html#part",
        "pages/x.pdf?page=2",
    ],
)
def test_what_is_a_path(folder: Path, path: str) -> None:
    """A file that is there, a document's suffix, or one word with a file's suffix, a / and a suffix, or ./ before."""
    assert place(path, folder, TRUSTING, may_be_text=True).scheme == "file"


def test_a_word_with_a_dot_is_a_path_where_there_is_such_a_file(folder: Path) -> None:
    """`Node.js` is a name, unless it is the file beside the manifest."""
    (folder / "Node.js").write_text("a file")
    assert place("Node.js", folder, may_be_text=True).scheme == "file"


@pytest.mark.parametrize("text", ["www.shop.test", "amazon.com/dp/B00", "shop.test/lamp.php?id=3"])
def test_a_web_address_without_its_scheme_is_refused(folder: Path, text: str) -> None:
    """It was meant to be read: its own letters are not the text of a page."""
    with pytest.raises(InvalidItem, match=r"is a web address without its scheme; write https://"):
        locate(text, str(folder), LIMITS, may_be_text=True)


@pytest.mark.parametrize("text", ["lamp.html", "http://shop.test/", "/etc/passwd", "data:,x", "www.shop.test"])
def test_an_inline_text_is_never_a_place(folder: Path, text: str) -> None:
    """Whatever it looks like."""
    content = Content(text.encode(), "text/plain", "utf-8")
    assert locate(InlineText(text), str(folder), LIMITS, may_be_text=True) == content


@pytest.mark.parametrize("uri", ["http://shop.test/a b", "HTTPS://shop.test", "s3://bucket/key", "hf://datasets/a/b"])
def test_what_is_a_uri(uri: str) -> None:
    """A scheme makes a URI, for documents and for images."""
    assert place(uri, may_be_text=True).uri == place(uri).uri == uri


def test_an_image_is_never_text(folder: Path) -> None:
    """What would be a document's text is an image's path."""
    assert place("lamp", folder).uri == (folder / "lamp").as_uri()


def test_text_loses_what_is_no_text() -> None:
    """Null bytes and lone surrogates do not stop an item that carries them in its text."""
    assert content("a\0b \ud800 c", may_be_text=True).data.decode().startswith("a\ufffdb \ufffd")


@pytest.mark.parametrize("value", [7, 1.5, True, ["a.html"], {"uri": "a.html"}, b"a.html"])
@pytest.mark.parametrize("may_be_text", [True, False])
def test_a_value_of_another_type_is_refused(value: Any, may_be_text: bool) -> None:
    """The message names the type that is there and what to write."""
    with pytest.raises(InvalidItem, match=f"type {type(value).__name__}; write .*path or a URI as a string"):
        locate(value, "", LIMITS, may_be_text=may_be_text)


def test_a_file_is_read_from_the_manifests_folder(folder: Path) -> None:
    """By a relative path, an absolute one, and a file URI: the same place."""
    full = folder / "pages" / "a page.html"
    places = [place(value, folder) for value in ("pages/../pages/a page.html", str(full), full.as_uri())]
    assert {found.uri for found in places} == {full.as_uri()}
    assert [read(found, LIMITS).data for found in places] == [b"<html>a</html>"] * 3


def test_a_link_inside_of_the_folder_is_followed(folder: Path) -> None:
    """A link is as good as a file, and named by what it leads to."""
    (folder / "link.html").symlink_to("pages/a page.html")
    assert place("link.html", folder).uri == (folder / "pages" / "a page.html").as_uri()


@pytest.mark.parametrize(
    "kind", ["../secret.txt", "pages/../../secret.txt", "absolute", "uri", "link", "linked folder"]
)
def test_nothing_outside_of_the_folder_is_read(folder: Path, kind: str) -> None:
    """By no spelling, unless the setting that the message names says so."""
    secret = folder.parent / "secret.txt"
    (folder / "link.txt").symlink_to(secret)
    (folder / "up").symlink_to(folder.parent)
    spellings = {"absolute": str(secret), "uri": secret.as_uri(), "link": "link.txt", "linked folder": "up/secret.txt"}
    path = spellings.get(kind, kind)
    with pytest.raises(InvalidItem, match=r"outside of the manifest's folder.*REPLI_ALLOW_OUTSIDE_FILES=1") as raised:
        place(path, folder)
    assert str(raised.value).startswith(path)
    assert read(place(path, folder, TRUSTING), TRUSTING).data == b"secret"


@pytest.fixture
def listening(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A socket, by the name of socket.txt."""
    monkeypatch.chdir(folder)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.txt")
        yield


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.html", "there is no file gone.html; put it there or correct the manifest"),
        ("README/a.html", "there is no file README/a.html"),
        ("pages/", "pages/ is a folder; name a file in it"),
        ("pipe.txt", "pipe.txt is a device or a pipe, not a regular file"),
        ("socket.txt", "socket.txt cannot be read"),
        ("/dev/zero", "/dev/zero is a device or a pipe, not a regular file"),
        ("circle.txt", "circle.txt cannot be read"),
        ("./" + "x" * 5000, "x… cannot be read"),
        ("file:///README", "there is no file file:///README"),
    ],
)
def test_what_is_no_file_is_told(folder: Path, path: str, message: str) -> None:
    """Each by the name that the manifest has, and none by waiting for it."""
    os.mkfifo(folder / "pipe.txt")
    (folder / "circle.txt").symlink_to("circle.txt")
    with pytest.raises(ItemError, match=message):
        read(place(path, folder, TRUSTING), TRUSTING)


def test_a_file_that_may_not_be_read_is_told(folder: Path) -> None:
    """A file without permission is told as such (to root, everything may be read)."""
    (folder / "locked.txt").write_text("locked")
    (folder / "locked.txt").chmod(0)
    if os.access(folder / "locked.txt", os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(ItemError, match=r"locked\.txt is not readable by this user"):
        read(place("locked.txt", folder), LIMITS)


@pytest.mark.parametrize("path", ["a\0b.png", "a\ud800.png", "file:///a%00b.png", "http://shop.test/a\0b"])
def test_impossible_characters_are_the_items_own_fault(folder: Path, path: str) -> None:
    """A null byte or a lone surrogate is refused before any file or network is asked."""
    with pytest.raises(InvalidItem, match="null byte or a lone surrogate"):
        place(path, folder, TRUSTING)


def test_a_file_of_another_machine_is_refused() -> None:
    """A file URI with a host cannot be read here."""
    with pytest.raises(InvalidItem, match="another machine"):
        place("file://server/share/a.txt")


def test_a_file_larger_than_the_limit_is_refused(folder: Path) -> None:
    """Seven bytes are too many for six, and not for seven."""
    with pytest.raises(ItemError, match="README is larger than 6 bytes; raise REPLI_FETCH_MAX_BYTES"):
        read(place("README", folder), FetchLimits(max_bytes=6))
    assert read(place("README", folder), FetchLimits(max_bytes=7)).data == b"read me"


@pytest.mark.parametrize(
    "uri",
    [
        "ftp://host/a",
        "memory://a",
        "local://a",
        "zip://a::s3://b/c.zip",
        "simplecache::s3://b/c",
        "s3://b/c::memory://d",
        "javascript://x",
    ],
)
@pytest.mark.parametrize("may_be_text", [True, False])
def test_other_schemes_are_refused(uri: str, may_be_text: bool) -> None:
    """Nothing local or chained gets to fsspec, and the message says what is read."""
    with pytest.raises(InvalidItem, match=r"has an unsupported scheme; write a path, or one of http://.*s3://"):
        locate(uri, "", TRUSTING, may_be_text=may_be_text)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("data:text/html;charset=utf-8,%3Cp%3Ea b", Content(b"<p>a b", "text/html", "utf-8")),
        ("data:,hello", Content(b"hello", "text/plain")),
        ("DATA:image/PNG;base64,aGVsbG8", Content(b"hello", "image/png")),
        ("data:image/png;base64,aGVs\n bG8%3D", Content(b"hello", "image/png")),
    ],
)
def test_a_data_uri_is_its_own_content(uri: str, expected: Content) -> None:
    """Percent-encoded or in base64, for documents and for images."""
    assert content(uri, may_be_text=True) == content(uri) == expected


def test_a_broken_data_uri_is_told() -> None:
    """What is not base64 is the item's own fault."""
    with pytest.raises(InvalidItem, match="not in base64"):
        content("data:image/png;base64,???")


@pytest.mark.parametrize("payload", ["," + "x" * 1001, ";base64," + base64.b64encode(b"x" * 1001).decode()])
def test_a_data_uri_larger_than_the_limit_is_refused(payload: str) -> None:
    """The limit counts the bytes that it stands for."""
    with pytest.raises(ItemError, match="the data URI is larger than 1000 bytes"):
        content(f"data:text/plain{payload}", limits=FetchLimits(max_bytes=1000))
    assert len(content(f"data:text/plain{payload}", limits=FetchLimits(max_bytes=1001)).data) == 1001


@pytest.mark.parametrize("swapped", ["shelf", "shelf/box", "shelf/box/lamp.txt"])
def test_a_link_that_replaced_a_checked_path_is_not_followed(tmp_path: Path, swapped: str) -> None:
    """Whichever part of the path it takes the place of, what is outside of the folder is not read."""
    for folder, text in (("catalogue", "inside"), ("elsewhere", "secret")):
        (tmp_path / folder / "shelf" / "box").mkdir(parents=True)
        (tmp_path / folder / "shelf" / "box" / "lamp.txt").write_text(text)
    lamp = locate("shelf/box/lamp.txt", str(tmp_path / "catalogue"), LIMITS, may_be_text=False)
    assert isinstance(lamp, Place)
    assert read(lamp, LIMITS).data == b"inside"
    (tmp_path / "catalogue" / swapped).rename(tmp_path / "moved away")
    (tmp_path / "catalogue" / swapped).symlink_to(tmp_path / "elsewhere" / swapped)
    with pytest.raises(ItemError, match=r"box/lamp\.txt leads to another place than when it was checked") as raised:
        read(lamp, LIMITS)
    assert not isinstance(raised.value, InvalidItem), "the next run may find it as it was"
    assert read(lamp, TRUSTING).data == b"secret", "files outside are allowed"


def test_a_file_below_a_file_is_not_there(tmp_path: Path) -> None:
    """A path through a file is a wrong path, and no link."""
    (tmp_path / "lamp.txt").write_text("a lamp")
    wrong = locate("lamp.txt/lamp.txt", str(tmp_path), LIMITS, may_be_text=False)
    assert isinstance(wrong, Place)
    with pytest.raises(ItemError, match="there is no file"):
        read(wrong, LIMITS)


def test_the_root_is_a_folder() -> None:
    """It has no name to open."""
    root = locate("/", "/", LIMITS, may_be_text=False)
    assert isinstance(root, Place)
    with pytest.raises(InvalidItem, match="/ is a folder"):
        read(root, LIMITS)


@pytest.fixture
def bucket() -> Iterator[str]:
    """A remote object of 3 MiB, in fsspec's memory."""
    import fsspec

    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/bucket/key.pdf", b"x" * 3 * 1024 * 1024)
    yield "memory://bucket/key.pdf"
    filesystem.rm("/bucket", recursive=True)


def remote(uri: str) -> Place:
    return Place(uri, uri, uri, uri.partition(":")[0])


def test_a_remote_object_is_read(bucket: str) -> None:
    """All of it, piece by piece."""
    assert len(read(remote(bucket), LIMITS, {"memory": "fsspec"}).data) == 3 * 1024 * 1024


def test_a_remote_object_larger_than_the_limit_is_refused(bucket: str) -> None:
    """Reading stops at the limit."""
    with pytest.raises(ItemError, match=r"key\.pdf is larger than 2000000 bytes"):
        read(remote(bucket), FetchLimits(max_bytes=2_000_000), {"memory": "fsspec"})


def test_a_slow_remote_object_is_cut_at_the_deadline(bucket: str) -> None:
    """A deadline that is over after the first piece ends the reading."""
    with pytest.raises(ItemError, match="took longer than 0 s"):
        read(remote(bucket), FetchLimits(time_limit_s=0), {"memory": "fsspec"})


def test_a_remote_object_that_is_not_there_is_told() -> None:
    """Its own message, as for a file."""
    with pytest.raises(ItemError, match="there is no object memory://bucket/gone"):
        read(remote("memory://bucket/gone"), LIMITS, {"memory": "fsspec"})


def test_a_missing_driver_is_named() -> None:
    """A scheme whose package is not here says which to install."""
    with pytest.raises(ItemError, match="needs the package ossfs; install it where the workers run"):
        read(remote("oss://bucket/key"), LIMITS, {"oss": "ossfs"})


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:hush@shop.test/a", "http://***@shop.test/a"),
        ("s3://:hush@bucket/a", "s3://***@bucket/a"),
        ("http://shop.test:80/a:b@c", "http://shop.test:80/a:b@c"),
        ("http://token@shop.test/", "http://***@shop.test/"),
        ("http://me:hu/s#h?@shop.test/a", "http://***@shop.test/a"),
        ("http://shop.test/@me", "http://shop.test/@me"),
        ("http://shop.test:/a@b", "http://shop.test:/a@b"),
        ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
    ],
)
def test_passwords_are_hidden(uri: str, shown: str) -> None:
    """The password goes, the rest stays: two different pages never look the same."""
    assert hide_password(uri) == shown
    assert place(uri).uri == place(uri).declared == shown
    assert "hush" not in repr(place(uri))


@pytest.mark.parametrize("value", [7, ["one", "two"], {"en": "one"}, True])
def test_a_text_of_another_type_is_named_as_the_text(folder: Path, value: Any) -> None:
    """Not as a document, which the manifest may not have at all."""
    with pytest.raises(InvalidItem, match=rf"^the manifest's text is of type {type(value).__name__}; write it as a"):
        locate(InlineText(value), str(folder), LIMITS, may_be_text=True)


def test_xml_in_a_cell_is_xml(folder: Path) -> None:
    """Its tags are no words; a page that begins as XML is a page."""
    xml = '<?xml version="1.0"?><lamp><name>Brass</name></lamp>'
    assert content(xml, folder, may_be_text=True).media_type == "application/xml"
    page = '<?xml version="1.0"?><html><body>A lamp</body></html>'
    assert content(page, folder, may_be_text=True).media_type == "text/html"
