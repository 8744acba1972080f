"""Opening a manifest: what is told before the first item, and formats that need no table."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import pytest

from repli.tasks.fallback import UsageError
from repli.tasks.sources.manifest import ManifestOptions, open_manifest

LINES = b'{"ID": "a", "Title": "Lamp", "image_url": "a.png"}\n{"ID": "b", "Title": "Mug", "price": 3}\n'


def test_keys_of_jsonl_are_columns(tmp_path: Path) -> None:
    """They are suggested, mapped, and found in any case, as those of a table."""
    path = tmp_path / "items.jsonl"
    path.write_bytes(LINES)
    with pytest.raises(UsageError) as refused:
        open_manifest(path)
    assert str(refused.value) == (
        f"the manifest {path} has no column 'name'; its columns: ID, Title, image_url, price; if these are meant, give "
        "--column name=Title --column image=image_url"
    )
    manifest = open_manifest(path, ManifestOptions.parse(["name=Title", "image=image_url"]))
    assert [(item.id, item.name, item.image, item.attributes) for item in manifest.items()] == [
        ("a", "Lamp", "a.png", {}),
        ("b", "Mug", None, {"price": 3}),
    ]
    assert manifest.notes == ()


def test_a_key_that_only_a_late_record_has_is_its_field(tmp_path: Path) -> None:
    """However many records lack it; a column that is another field stays that one."""
    source = tmp_path / "items.jsonl"
    early = "".join(f'{{"id": "{number}", "name": "Lamp", "text": "a page"}}\n' for number in range(1100))
    source.write_text(early + '{"id": "last", "name": "Lamp", "text": "a page", "image": "lamp.jpg"}\n')
    *_, last = open_manifest(source).items()
    assert (last.id, last.image, last.text, last.attributes) == ("last", "lamp.jpg", "a page", {})
    *_, last = open_manifest(source, ManifestOptions(columns={"document": "text"})).items()
    assert (last.document, last.text, last.image) == ("a page", None, "lamp.jpg")


def test_a_manifest_of_names_alone_says_so(tmp_path: Path) -> None:
    """Before the run, with what looks meant."""
    path = tmp_path / "items.jsonl"
    path.write_bytes(LINES)
    [note] = open_manifest(path, ManifestOptions.parse(["name=Title"])).notes
    assert note.endswith("neither document, text nor image, which the default pipeline reads; if these are meant, "
                         "give --column image=image_url")  # fmt: skip


def test_lines_without_any_record_are_items_that_failed(tmp_path: Path) -> None:
    """There are no columns to look for then, and nothing is hidden."""
    path = tmp_path / "items.jsonl"
    path.write_bytes(b"[1]\nnull\n{\n")
    items = list(open_manifest(path).items())
    assert [item.id for item in items] == ["items.jsonl:1", "items.jsonl:2", "items.jsonl:3"]
    assert all(item.problem for item in items)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_jsonl_of_windows_is_read(tmp_path: Path, encoding: str) -> None:
    """PowerShell writes UTF-16."""
    path = tmp_path / "items.jsonl"
    path.write_bytes('{"id": "a", "name": "Café", "text": "t"}\r\n{"id": "b", "name": "Mug"}\r\n'.encode(encoding))
    manifest = open_manifest(path)
    assert [item.name for item in manifest.items()] == ["Café", "Mug"]
    assert manifest.notes == (f"the manifest {path} is read in {encoding.upper()} (--encoding changes it)",)


def test_jsonl_in_a_given_encoding(tmp_path: Path) -> None:
    """Without it the line is no item; with it, it is."""
    path = tmp_path / "items.jsonl"
    path.write_bytes('{"id": "a", "name": "Café", "text": "t"}\n'.encode("cp1252"))
    [item] = open_manifest(path).items()
    assert item.problem == "line 1 of items.jsonl is not UTF-8 (byte 24); save the file as UTF-8, or give --encoding"
    [item] = open_manifest(path, ManifestOptions.parse(encoding="windows-1252")).items()
    assert (item.name, item.problem) == ("Café", None)


def test_compressed_jsonl_is_read(tmp_path: Path) -> None:
    """Its lines are named by the file."""
    path = tmp_path / "items.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": "a", "name": "Lamp"}\n{\n'))
    good, bad = open_manifest(path).items()
    assert (good.name, bad.id) == ("Lamp", "items.jsonl.gz:2")


def test_jsonl_that_is_cut_off_is_an_error_where_it_ends(tmp_path: Path) -> None:
    """Items before it are read; the rest is not passed over in silence."""
    path = tmp_path / "items.jsonl.gz"
    lines = b"".join(b'{"id": "%d", "name": "Lamp %d"}\n' % (n, n * 7919) for n in range(50_000))
    path.write_bytes(gzip.compress(lines)[:-5000])
    items = open_manifest(path).items()
    assert next(items).id == "0"
    with pytest.raises(UsageError, match=r"is damaged gzip data \(.*\); copy it again"):
        list(items)


def test_paths_may_start_in_another_folder(tmp_path: Path) -> None:
    """Standard input has no folder of its own."""
    path = tmp_path / "items.jsonl"
    path.write_bytes(b'{"id": "a", "name": "Lamp"}')
    [item] = open_manifest(path, ManifestOptions.parse(folder="/somewhere")).items()
    assert item.folder == "/somewhere"


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("items.csv"), "id,name\na,Lamp\n")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", gzip.compress(b"id,name\na,Lamp\n", mtime=0), "is gzip data; add .gz to its name, or unpack it"),
        ("a.csv", zipped(), "is a ZIP file, as .xlsx is; unpack it, or save the table as CSV"),
        ("a.jsonl", zipped(), "is a ZIP file, as .xlsx is; unpack it, or save the table as CSV"),
        ("a.tsv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an Office file, as .xls is; save the table as CSV"),
        ("a.ndjson", b"PAR1\x15\x04", "is a Parquet file; name it .parquet"),
        (
            "a.csv",
            b"\n<!DOCTYPE html><title>404</title>",
            "is a page of HTML, such as an error or a log-in; download it",
        ),
        ("a.jsonl", b"SQLite format 3\0", "is an SQLite database; export its table as CSV"),
        ("a.csv", b"%PDF-1.7\n", "is a PDF; write its table as CSV"),
        (
            "a.csv.gz",
            gzip.compress(gzip.compress(b"id,name\n", mtime=0), mtime=0),
            "is gzip data within gzip data; unpack it, and name it",
        ),
        (
            "a.jsonl.gz",
            gzip.compress(zipped(), mtime=0),
            "is a ZIP file, as .xlsx is within gzip data; unpack it, and name it",
        ),
        ("a.jsonl.gz", b'{"id": "a", "name": "Lamp"}', "is not gzip data; take .gz off its name"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_its_name(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """Before anything starts, and with what it is: its bytes are no columns, and no thousand items that failed."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError) as refused:
        open_manifest(path)
    assert str(refused.value).startswith(f"the manifest {path} {message}")
