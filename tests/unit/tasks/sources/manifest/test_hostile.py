"""Manifests of any bytes: items, or a usage error that says what to do, and nothing else."""

from __future__ import annotations

import json
import tempfile
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from repli.tasks.fallback import UsageError
from repli.tasks.items import Item
from repli.tasks.sources.manifest import open_manifest

GOOD = {
    ".csv": 'sep=;\nid;name;text\na;"Crème; brûlée";t\nb;Lamp;\n'.encode(),
    ".tsv": "id\tname\timage\na\tLamp\tx.png\n".encode("utf-16"),
    ".jsonl": b'{"id": "a", "name": "Lamp", "x": [1.5, {"y": null}]}\n{"id": 7, "name": "M\\u00fcg"}\n',
}


def parquet() -> bytes:
    buffer = BytesIO()
    columns = {"id": [1.0, None], "name": ["A", "B"], "day": pa.array([0, 10**6], pa.int32()).cast(pa.date32())}
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


GOOD[".parquet"] = parquet()


def read(suffix: str, content: bytes) -> list[Item]:
    """Return the items, none where the manifest is refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"m{suffix}")
        path.write_bytes(content)
        try:
            return list(open_manifest(path).items())
        except UsageError as refused:
            assert str(path) in str(refused)
            return []


@pytest.mark.parametrize("suffix", GOOD)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_changed_manifest_is_read_or_refused(suffix: str, data: st.DataObject) -> None:
    """Bytes overwritten, cut out and put in, anywhere: what comes through can be stored."""
    content = bytearray(GOOD[suffix])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    for item in read(suffix, bytes(content)):
        json.dumps(item.record, allow_nan=False).encode()
        assert item.id.encode()


def test_a_table_whose_names_cannot_be_read_is_refused() -> None:
    """They are stored as UTF-8, and a byte of them was changed."""
    damaged = GOOD[".parquet"].replace(b"name", b"n\x80me")
    assert damaged != GOOD[".parquet"]
    assert read(".parquet", damaged) == []


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".csv.gz", ".jsonl.gz", ".parquet", ".parquet.gz"])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=300))
@example(content=b"\xff\xfe")
@example(content=b"\0" * 100)
@example(content=b'"')
def test_any_bytes_are_read_or_refused(suffix: str, content: bytes) -> None:
    """Nothing of them is an error of the program."""
    read(suffix, content)
