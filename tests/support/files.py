"""Files to test with, made from nothing: pictures and documents, whole and broken."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps
from pypdf import PdfReader, PdfWriter


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(seed: int = 0, width: int = 96, height: int = 80) -> Image.Image:
    """Soft blots of colour: no photo of anything, and not blank."""
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return ImageOps.autocontrast(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(4)))


def png(seed: int = 0, width: int = 96, height: int = 80) -> bytes:
    """A small picture."""
    return encoded(picture(seed, width, height))


def bomb(width: int = 100_000, height: int = 100_000) -> bytes:
    """A PNG of a hundred bytes whose header claims so many pixels, well formed so far."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pdf(text: str) -> bytes:
    """A PDF of one page with a line of text."""
    return _assembled(
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 99] /Contents 4 0 R /Resources << /Font << /F1 5 0 R>>>>>>",
        _stream(f"BT /F1 18 Tf 20 100 Td ({text}) Tj ET".encode("ascii")),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )


def pdf_of_lines(pages: Sequence[Sequence[str]]) -> bytes:
    """A PDF of these pages, each of these lines, in letters of Latin-1; others are replaced."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, lines in enumerate(pages):
        escaped = (re.sub(r"([\\()])", r"\\\1", line) for line in lines)
        shown = "".join(f"({line}) Tj T*\n" for line in escaped)
        objects += [
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R /Resources << /Font << /F 3 0 R >>"
            b" >> >>" % (5 + 2 * number),
            _stream(f"BT /F 11 Tf 14 TL 54 740 Td\n{shown}ET".encode("latin-1", errors="replace")),
        ]
    return _assembled(*objects)


def turned_pdf(lines: Sequence[str], text_degrees: int, page_degrees: int) -> bytes:
    """A PDF of a page that is shown turned clockwise, with lines drawn turned counter-clockwise, each word by itself.

    Where both are turned alike, its reader sees the lines upright.
    """
    across, up = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[text_degrees]
    left, top = {0: (72, 700), 90: (100, 72), 180: (540, 92), 270: (500, 720)}[text_degrees]
    shown = ""
    for number, line in enumerate(lines):
        along = 0
        for word in line.split():
            x, y = left + across * along + up * 14 * number, top + up * along - across * 14 * number
            shown += f"BT /F 11 Tf {across} {up} {-up} {across} {x} {y} Tm ({word}) Tj ET\n"
            along += 8 * len(word) + 8
    return _assembled(
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Rotate %d /Contents 4 0 R /Resources << /Font << /F 5 0"
        b" R >> >> >>" % page_degrees,
        _stream(shown.encode("ascii")),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Courier >>",
    )


def form_pdf(label: str, value: str) -> bytes:
    """A PDF whose page has a label, and a field of a form that is filled in."""
    return _assembled(
        b"<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [6 0 R] /DA (/F 12 Tf 0 g) >> >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F 5 0 R >> >> /Contents 4 0 R"
        b" /Annots [6 0 R] >>",
        _stream(f"BT /F 12 Tf 72 695 Td ({label}) Tj ET".encode("ascii")),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        f"<< /Type /Annot /Subtype /Widget /FT /Tx /T (field) /V ({value}) /Rect [150 690 450 710] /F 4"
        " /DA (/F 12 Tf 0 g) /AP << /N 7 0 R >> /P 3 0 R >>".encode("ascii"),
        _stream(
            f"/Tx BMC BT /F 12 Tf 2 5 Td ({value}) Tj ET EMC".encode("ascii"),
            b"/Type /XObject /Subtype /Form /BBox [0 0 300 20] /Resources << /Font << /F 5 0 R >> >>",
        ),
    )


def no_unicode_pdf() -> bytes:
    """A PDF with a line of 22 letters in a font that says of none of them which it is."""
    names = [b"/g%d" % number for number in range(1, 27)]
    return _assembled(
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F 5 0 R >> >>"
        b" /Contents 4 0 R >>",
        _stream(b"BT /F 12 Tf 72 695 Td <02120113130c010d1017091408071205050e1308010405> Tj ET"),
        b"<< /Type /Font /Subtype /Type3 /FontBBox [0 0 750 750] /FontMatrix [0.001 0 0 0.001 0 0] /FirstChar 1"
        b" /LastChar 26 /Widths [%s] /Encoding << /Type /Encoding /Differences [1 %s] >> /CharProcs << %s >>"
        b" /Resources << >> >>" % (b"750 " * 26, b" ".join(names), b" ".join(name + b" 6 0 R" for name in names)),
        _stream(b"750 0 0 0 750 750 d1 0 0 700 700 re f"),
    )


def pdf_for_pypdf(text: str) -> bytes:
    """A PDF whose font numbers its letters from 1, and whose table of them pypdf reads and PDFium does not.

    The table says that it has one entry, and has more, as some programs write it.
    """
    letters = sorted(set(text))
    codes = "".join(f"{letters.index(letter) + 1:04x}" for letter in text)
    entries = "\n".join(f"<{number:04x}> <{ord(letter):04x}>" for number, letter in enumerate(letters, 1))
    table = f"begincmap\n1 begincodespacerange\n<0000> <FFFF>\nendcodespacerange\n1 beginbfchar\n{entries}\nendbfchar"
    return _assembled(
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 99] /Contents 4 0 R /Resources << /Font << /F1 5 0 R>>>>>>",
        _stream(f"BT /F1 18 Tf 20 50 Td <{codes}> Tj ET".encode("ascii")),
        b"<< /Type /Font /Subtype /Type0 /BaseFont /F /Encoding /Identity-H /DescendantFonts [6 0 R]"
        b" /ToUnicode 7 0 R >>",
        b"<< /Type /Font /Subtype /CIDFontType0 /BaseFont /F /DW 600 /CIDSystemInfo << /Registry (Adobe)"
        b" /Ordering (Identity) /Supplement 0 >> >>",
        _stream(table.encode("ascii")),
    )


def scanned_pdf() -> bytes:
    """A PDF of one page that is a picture."""
    return encoded(picture(width=300, height=400), "PDF")


def _stream(content: bytes, entries: bytes = b"") -> bytes:
    return b"<< %s /Length %d >>\nstream\n%s\nendstream" % (entries, len(content), content)


def _assembled(*objects: bytes) -> bytes:
    """A PDF of these objects, numbered from 1; the first is its catalogue."""
    content, places = b"%PDF-1.7\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    count = len(objects) + 1
    table = b"0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (count, len(content))
    return content + b"xref\n0 %d\n" % count + table + trailer


def locked_pdf(text: str) -> bytes:
    """The same behind a password."""
    writer = PdfWriter(clone_from=PdfReader(BytesIO(pdf(text))))
    writer.encrypt("secret", algorithm="RC4-128")
    file = BytesIO()
    writer.write(file)
    return file.getvalue()
