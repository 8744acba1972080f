"""The number of processors that a process may use."""

from __future__ import annotations

import os

import pytest

from repli.tasks.runtime.processors import processors_of_machine, processors_of_worker


def test_a_machine_has_some() -> None:
    """At least one, and no more than this process may run on."""
    assert 1 <= processors_of_machine() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("setting", "share"), [("3", 3), ("1", 1), ("4,2", 4), ("0", 1)])
def test_a_worker_has_the_share_that_its_cluster_sets(
    monkeypatch: pytest.MonkeyPatch, setting: str, share: int
) -> None:
    """The first of a list, which is that of the outermost level; never none."""
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert processors_of_worker() == share


@pytest.mark.parametrize("setting", [None, "", "all"])
def test_without_a_share_it_has_all(monkeypatch: pytest.MonkeyPatch, setting: str | None) -> None:
    """In a process that no cluster has started."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if setting is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert processors_of_worker() == processors_of_machine()
