"""Hostile files: real ones whose bytes were changed at random, and bytes that are no text, whatever they claim."""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from PIL import Image

from tests.support import files
from tests.support.scripts import LEGACY, SENTENCES

MAX_BYTES = 400_000
FILES_A_KIND = 40
KINDS = {
    "manifest": frozenset({".csv", ".tsv", ".jsonl", ".parquet"}),
    "page": frozenset({".html", ".htm", ".xml", ".txt", ".md", ".json"}),
    "pdf": frozenset({".pdf"}),
    "picture": frozenset({".png", ".jpg", ".gif", ".tif", ".tiff", ".webp", ".bmp", ".ico", ".ppm", ".pgm"}),
}
DRAWN = ("english", "french", "czech", "russian", "greek")
_NUMBER = re.compile(rb"\d+")
_NUMBERS = (b"0", b"-1", b"1", b"255", b"65536", b"2147483647", b"4294967296", b"99999999999999999999", b"1e400")


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A file by its name, the encoding that a server declares, and the column that names a manifest's items."""

    name: str
    content: bytes
    charset: str | None = None
    column: str | None = None

    @property
    def suffix(self) -> str:
        return "".join(Path(self.name).suffixes[-2:]) if self.name.endswith(".gz") else Path(self.name).suffix


def installed_packages() -> Path:
    """Return the folder of the packages that are installed: it has files of all kinds."""
    found = importlib.util.find_spec("PIL")
    assert found and found.origin
    return Path(found.origin).parent.parent


def real_files(folders: Iterable[Path], chance: random.Random) -> dict[str, list[Input]]:
    """Return files of each kind: some of those that lie under the folders, and some that are made here."""
    inputs = {"manifest": [*_manifests()], "page": [*_pages()], "pdf": [*_pdfs()], "picture": [*_pictures()]}
    found: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for path in (path for folder in folders for path in sorted(folder.rglob("*"))):
        for kind, suffixes in KINDS.items():
            if path.suffix.lower() in suffixes and path.is_file() and 0 < path.stat().st_size <= MAX_BYTES:
                found[kind].append(path)
    for kind, paths in found.items():
        chosen = chance.sample(paths, min(FILES_A_KIND, len(paths)))
        inputs[kind] += [_input(path) for path in chosen]
    return inputs


def _input(path: Path) -> Input:
    content = path.read_bytes()
    column = None
    if path.suffix.lower() in {".csv", ".tsv"}:
        column = re.split(r"[,;\t]", content.partition(b"\n")[0].decode(errors="replace"))[0].strip().strip('"')
    elif path.suffix.lower() == ".parquet":
        column = pq.read_schema(path).names[0]
    return Input(name=path.name.lower(), content=content, column=column or None)


def _manifests() -> Iterator[Input]:
    records = [
        {"id": number, "name": f"Lampe {number}", "text": text, "price": number / 3, "tags": ["a", None]}
        for number, text in enumerate(SENTENCES.values())
    ]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    rows = ["id;name;text", *(f'{record["id"]};"{record["name"]}";"{record["text"]}"' for record in records)]
    yield Input(name="m.jsonl", content=lines.encode())
    yield Input(name="m.jsonl.gz", content=gzip.compress(lines.encode(), mtime=0))
    yield Input(name="m.csv", content="\r\n".join(["sep=;", *rows]).encode("utf-8-sig"))
    yield Input(name="m.csv", content=b"id,name\n1,Caf\xe9 " + b"a" * 40_000)
    yield Input(name="m.tsv", content="\n".join(rows).replace(";", "\t").encode("utf-16"))
    for compression in ("snappy", "none", "zstd"):
        file = BytesIO()
        pictures = [{"bytes": files.png(number), "path": f"{number}.png"} for number in range(len(records))]
        table = pa.Table.from_pylist(records).append_column("image", [pictures])
        pq.write_table(table, file, compression=compression)
        yield Input(name="m.parquet", content=file.getvalue())


def _pages() -> Iterator[Input]:
    for language, charset, codec in LEGACY:
        text = SENTENCES[language]
        markup = f"<html><head><meta charset={charset}></head><body><article><p>{text}</p></article></body></html>"
        yield Input(name=f"{language}.html", content=markup.encode(codec, "replace"))
        yield Input(name=f"{language}.txt", content=text.encode(codec, "replace"), charset=charset)
    for begin in (
        "<!-- -->" * 200,
        "<a" + " " * 20_000,
        "a" * 40_000,
        " " * 40_000 + "<?xml",
        "<meta charset=" + " " * 4000,
    ):
        yield Input(name="begin.html", content=(begin + SENTENCES["english"]).encode())
        yield Input(name="begin", content=(begin + SENTENCES["french"]).encode("cp1252"))
    for language, text in SENTENCES.items():
        yield Input(name=f"{language}.txt", content=text.encode())
        yield Input(name=language, content=text.encode("utf-16"))


def _pdfs() -> Iterator[Input]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    for language, font, compression in product(DRAWN, (3, 42), (0, 6)):  # letters that are drawn, and TrueType
        with rc_context({"pdf.fonttype": font, "pdf.compression": compression}):
            figure, file = Figure(), BytesIO()
            figure.text(0.05, 0.5, SENTENCES[language], fontsize=8, wrap=True)
            figure.savefig(file, format="pdf", metadata={"CreationDate": None})
        yield Input(name=f"{language}.pdf", content=file.getvalue())
    made = (files.pdf("A brass lamp"), files.form_pdf("Product", "lamp"), files.no_unicode_pdf(), files.scanned_pdf())
    for content in (*made, files.pdf_for_pypdf("A brass lamp"), files.locked_pdf("A brass lamp")):
        yield Input(name="made.pdf", content=content)


def _pictures() -> Iterator[Input]:
    colour = files.picture(3, 200, 150)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "AVIF", "JPEG2000", "TGA", "MPO"):
        yield Input(name=f"made.{kind.lower()}", content=files.encoded(colour, kind))
    for mode, kind in (("RGBA", "PNG"), ("P", "PNG"), ("I;16", "PNG"), ("1", "TIFF"), ("F", "TIFF"), ("CMYK", "JPEG")):
        image = Image.new("I;16", (60, 40), 3000) if mode == "I;16" else colour.convert(mode)
        yield Input(name=f"{mode}.{kind.lower()}", content=files.encoded(image, kind))
    tiff = {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"compression": "packbits"}
    for options in tiff:
        yield Input(name="made.tiff", content=files.encoded(colour, "TIFF", **options))


_KINDS_OF_EDITS = ("overwrite", "flip", "insert", "number") * 2 + ("cut", "repeat", "move", "truncate")
_POSITION = st.integers(0, 9_999).map(lambda place: place / 10_000)  # `floats` are mostly 0
_EDITS = st.lists(
    st.tuples(
        st.sampled_from(_KINDS_OF_EDITS),
        _POSITION,
        _POSITION,
        st.binary(min_size=1, max_size=16),
    ),
    min_size=1,
    max_size=4,
)


def mutations(inputs: list[Input]) -> st.SearchStrategy[Input]:
    """Return a strategy of inputs with some bytes overwritten, flipped, put in, cut out, repeated or moved."""
    return st.builds(_mutated, st.sampled_from(inputs), _EDITS)


def _mutated(original: Input, edits: list[tuple[str, float, float, bytes]]) -> Input:
    content = original.content
    for edit in edits:
        content = _edited(content, *edit)
    return replace(original, content=content)


def _edited(content: bytes, kind: str, where: float, how_far: float, payload: bytes) -> bytes:
    at = int(where * len(content))
    length = 1 + int(how_far**6 * len(content))  # mostly small
    block = content[at : at + length]
    match kind:
        case "overwrite":
            return content[:at] + payload + content[at + len(payload) :]
        case "flip":
            flipped = bytes(a ^ b for a, b in zip(content[at : at + len(payload)], payload, strict=False))
            return content[:at] + flipped + content[at + len(flipped) :]
        case "insert":
            return content[:at] + payload + content[at:]
        case "cut":
            return content[:at] + content[at + length :]
        case "repeat":
            return content[:at] + block * min(1 + payload[0], MAX_BYTES // len(block or b" ") + 1) + content[at:]
        case "move":
            rest = content[:at] + content[at + length :]
            to = int(how_far * len(rest))
            return rest[:to] + block + rest[to:]
        case "truncate":
            return content[:at]
    number = _NUMBER.search(content, at)
    return (
        content[: number.start()] + _NUMBERS[payload[0] % len(_NUMBERS)] + content[number.end() :]
        if number
        else content
    )


_CHARSETS = (None, "utf-8", "windows-1252", "iso-8859-1", "gbk", "big5", "shift_jis", "euc-kr", "koi8-r", "utf-16")
_NOISE_NAMES = ("noise.txt", "noise.html", "noise.md", "noise", "noise.json", "noise.xml")


def noise() -> st.SearchStrategy[Input]:
    """Return a strategy of bytes that are no text: random, compressed, or a picture; in the name of a text."""
    return st.builds(
        _noise,
        st.sampled_from(_NOISE_NAMES),
        st.sampled_from(_CHARSETS),
        st.sampled_from(("random", "deflate", "jpeg")),
        st.integers(200, 4000),
        st.integers(0, 2**32),
    )


def _noise(name: str, charset: str | None, kind: str, size: int, seed: int) -> Input:
    random_bytes = random.Random(seed).randbytes(size)
    if kind == "deflate":
        words = [word for text in SENTENCES.values() for word in text.split()]
        text = " ".join(random.Random(seed).choices(words, k=size)).encode()
        random_bytes = zlib.compress(text)[2:]
    elif kind == "jpeg":
        random_bytes = files.encoded(files.picture(seed % 50, 120, 90), "JPEG")[600:]  # without its tables
    body = b"<html><body><p>%s</p></body></html>" % random_bytes if name.endswith((".html", ".xml")) else random_bytes
    return Input(name=name, content=body, charset=charset)
