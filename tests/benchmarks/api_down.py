"""The night of the API at full size: 10,033 pages on four servers; one is dead and one hangs from page 3,000 on.

``python -m tests.benchmarks.api_down`` runs, one after the other, against real servers on loopback:

* `repli run`, with all four servers well;
* `repli run`, where one server answers 503 to all requests from the first for a page after the 3,000th on, and another
  takes them and never answers;
* `repli reprocess`, once both are back and their breakers let a probe through, which is waited for, off the clock;
* the linear pipeline of the story, on the first 500 items, the outage after the same share of them: an item whose fetch
  fails goes to a queue and begins again at step 1, three times. It waits 1 s for a page, where Repli waits 30 s; its
  time for all items, at 30 s, is computed from what was measured. The formula is printed.

It ends with an error where the promise is not kept: every item stored; the two servers asked at most N - 1 times, plus
the calls in flight, two tries of a transient error in each worker, and one a probe; no more wall time than with all of
them well, and two time limits; every item that fell back healed, by one request each, and no other request.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support.origins import Origin

ITEMS = 10_033
HEALTHY = 3_000
FIRST = 500
LIMIT_S = 30.0
LINEAR_LIMIT_S = 1.0
RETRIES = 3
WELL, ALSO_WELL, DEAD, HANGING = range(4)
FAILURES, AT_ONCE, TRIES = 5, 4, 2
"""Of the breaker of `fetch.origin`: failures that open it, calls at once, and further tries of transient errors."""
PROBE_WAIT_S = 1000.0
"""The longest cool-down is 15 minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """What the linear pipeline came to, and its mean seconds: an item that is well, a try of each bad server."""

    stored: int
    stuck: int
    seconds: float
    well_s: float
    dead_s: float
    hanging_s: float


class Servers:
    """The four servers, and the pages that they have: page N is the server's of number N modulo four."""

    def __init__(self, pages: Sequence[bytes], stack: ExitStack) -> None:
        self._pages = pages
        self._healthy = len(pages)
        self.asked_in_vain: Counter[int] = Counter()
        self.all = [Origin("well", page=self._page, looks_at=self._looker(number)) for number in range(4)]
        for origin in self.all:
            stack.callback(origin.close)

    def begin(self, healthy: int | None = None) -> None:
        """All are well, and nobody has asked them anything; from page `healthy` on two of them are not."""
        self._healthy = len(self._pages) if healthy is None else healthy
        self.asked_in_vain.clear()
        for origin in self.all:
            origin.become("well")

    def address(self, number: int) -> str:
        return f"{self.all[number % 4].url}/{number}.html"

    @property
    def requests(self) -> int:
        return sum(origin.requests for origin in self.all)

    @property
    def paths(self) -> Counter[str]:
        return sum((origin.paths for origin in self.all), Counter[str]())

    def _page(self, path: str) -> bytes:
        return self._pages[int(path[1:].partition(".")[0])]

    def _looker(self, server: int) -> Any:
        def look(path: str) -> None:
            origin = self.all[server]
            if server in (DEAD, HANGING) and int(path[1:].partition(".")[0]) >= self._healthy:
                origin.kind = "dead" if server == DEAD else "hanging"
            self.asked_in_vain[server] += origin.kind != "well"

        return look


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--healthy", type=int, help="pages before the outage; else as large a share as 3,000 of 10,033")
    parser.add_argument(
        "--first", type=int, help="items of the linear pipeline; else 500, or as large a share of fewer"
    )
    arguments = parser.parse_args()
    share = min(1.0, arguments.items / ITEMS)
    compare(
        arguments.items, arguments.healthy or round(HEALTHY * share), arguments.first or max(50, round(FIRST * share))
    )


def compare(items: int, healthy: int, first: int) -> None:
    from repli.flows.cli.demo.catalogue import build

    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        catalogue = build(folder / "catalogue", items=items, broken=False, min_words=0)
        records = [json.loads(line) for line in catalogue.read_text(encoding="utf-8").splitlines()]
        items = len(records)
        pages = [(catalogue.parent / record["document"]).read_bytes() for record in records]
        servers = Servers(pages, stack)
        manifest = folder / "items.jsonl"
        lines = [
            json.dumps({"id": record["id"], "name": record["name"], "document": servers.address(number)})
            for number, record in enumerate(records)
        ]
        manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
        few = folder / "few.jsonl"
        few.write_text('{"id": "1", "name": "A lamp", "document": "It stands on a table."}\n', encoding="utf-8")
        homes = {name: folder / name for name in ("well", "down")}
        for home in homes.values():  # a private server makes its database once in its life
            _repli(home, "run", str(few), "--database", f"sqlite:///{home}.few.db", "--json")

        servers.begin()
        well_s, well = _repli(homes["well"], "run", str(manifest), "--json")
        asked_well = servers.requests
        _say(f"all well: {well_s:.0f} s, {asked_well} requests")

        servers.begin(healthy)
        down_s, down = _repli(homes["down"], "run", str(manifest), "--json")
        in_vain = dict(servers.asked_in_vain)
        probes = _probes(homes["down"], servers)
        _say(f"one dead, one hanging: {down_s:.0f} s, {servers.requests} requests, in vain {in_vain}, probes {probes}")
        for outage in down["outages"]:
            _say(f"  {outage}")

        servers.begin()
        waited_s = _wait_for_the_probes(homes["down"])
        healed_s, healed = _repli(homes["down"], "reprocess", "--json")
        paths = servers.paths
        _say(f"reprocess: waited {waited_s:.0f} s, {healed_s:.0f} s, {healed}")

        servers.begin(share := round(first * healthy / items))
        linear = run_linear(records[:first], servers)
        _say(f"linear: {linear}")

    fell_back = down["rungs"]["fetch"].get("skip", 0) + down["rungs"]["fetch"].get("cached", 0)
    bad = len(range(healthy, items)) // 4
    all_s, formula = extrapolated(linear, items=items, bad=bad)
    print(f"\n{items} items on four servers, one dead and one hanging from item {healthy} on, {os.cpu_count()} cores\n")
    print("| | items | stored | in vain: dead, hanging | wall time |\n|---|---|---|---|---|")
    print(f"| `repli run`, all well | {items} | {well['stored']} | – | {well_s:.0f} s |")
    vain = f"{in_vain.get(DEAD, 0)}, {in_vain.get(HANGING, 0)} requests"
    print(f"| `repli run`, one dead, one hanging | {items} | {down['stored']} | {vain} | {down_s:.0f} s |")
    print(
        f"| `repli reprocess`, both back | {healed['claimed']} | {healed['upgraded']} upgraded | "
        f"{sum(paths.values())} requests, none in vain | {healed_s:.0f} s |"
    )
    print(
        f"| linear, the first {first}, {LINEAR_LIMIT_S:.0f} s a page | {first} | {linear.stored}, {linear.stuck} stuck "
        f"| – | {linear.seconds:.0f} s |"
    )
    told = f"{items} | {items - 2 * bad}, {2 * bad} stuck | – | {all_s:.0f} s"
    print(f"| linear, computed, {LIMIT_S:.0f} s a page | {told} |")
    print(f"\nlinear, computed: {formula}; the outage of the first {first} began at {share}")
    kept = _promises(
        well, down, healed, in_vain, probes, paths, items=items, fell_back=fell_back, longer_s=down_s - well_s
    )
    for promise, is_kept in kept.items():
        print(f"{'kept' if is_kept else 'BROKEN'}: {promise}")
    if not all(kept.values()):
        raise SystemExit("a promise was not kept")


def _promises(
    well: Mapping[str, Any],
    down: Mapping[str, Any],
    healed: Mapping[str, Any],
    in_vain: Mapping[int, int],
    probes: Mapping[int, int],
    paths: Counter[str],
    *,
    items: int,
    fell_back: int,
    longer_s: float,
) -> dict[str, bool]:
    kept = {f"{items} stored, by both runs": well["stored"] == down["stored"] == items}
    for server, what in ((DEAD, "dead"), (HANGING, "hanging")):
        tries = TRIES * (os.cpu_count() or 1) if server == DEAD else 0  # a worker each: one request of its batch
        bound = FAILURES - 1 + AT_ONCE + tries + probes[server]
        asked = in_vain.get(server, 0)
        kept[f"{asked} requests to the {what} server ≤ {bound} (N - 1 + in flight + tries + probes)"] = asked <= bound
    kept[f"{longer_s:+.0f} s of wall time ≤ 2 × {LIMIT_S:.0f} s"] = longer_s <= 2 * LIMIT_S
    kept[f"{healed['upgraded']} of {fell_back} items that fell back healed"] = healed["upgraded"] == fell_back
    is_once = sum(paths.values()) == len(paths) == fell_back
    kept[f"{sum(paths.values())} requests while healing: one for each of these items, and no other"] = is_once
    return kept


def extrapolated(linear: Linear, *, items: int, bad: int) -> tuple[float, str]:
    """The time of the linear pipeline for all items, from what was measured, and how it is computed."""
    tries = RETRIES + 1
    seconds = (items - 2 * bad) * linear.well_s + bad * tries * linear.dead_s + bad * tries * LIMIT_S
    formula = (
        f"{items - 2 * bad} well × {linear.well_s:.3f} s + {bad} dead × {tries} tries × {linear.dead_s:.3f} s + "
        f"{bad} hanging × {tries} tries × {LIMIT_S:.0f} s = {seconds:.0f} s"
    )
    return seconds, formula


def run_linear(records: Sequence[Mapping[str, Any]], servers: Servers) -> Linear:
    """The pipeline of the story: an item whose step fails waits in a queue, and begins again at step 1."""
    import httpx
    import trafilatura

    from repli.tasks.models import text_embedder
    from repli.tasks.settings import ModelSettings

    embedder = text_embedder.load(ModelSettings().text)
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE items (id PRIMARY KEY, text, vector)")
    queue = deque((number, record, 0) for number, record in enumerate(records))
    spent: dict[int | None, list[float]] = {None: [], DEAD: [], HANGING: []}
    stored = stuck = 0
    began = time.monotonic()
    with httpx.Client(timeout=LINEAR_LIMIT_S) as client:
        while queue:
            number, record, tried = queue.popleft()
            started = time.monotonic()
            try:
                page = client.get(servers.address(number)).raise_for_status().text
            except httpx.HTTPError:
                spent[number % 4].append(time.monotonic() - started)
                if tried < RETRIES:
                    queue.append((number, record, tried + 1))
                else:
                    stuck += 1
                continue
            assert record["id"]
            assert record["name"]
            text = trafilatura.extract(page) or ""
            vector = embedder.embed([f"{record['name']}. {text}"])[0]
            connection.execute("INSERT INTO items VALUES (?, ?, ?)", (record["id"], text, vector.tobytes()))
            stored += 1
            spent[None].append(time.monotonic() - started)
    return Linear(
        stored=stored,
        stuck=stuck,
        seconds=time.monotonic() - began,
        well_s=_mean(spent[None]),
        dead_s=_mean(spent[DEAD]),
        hanging_s=_mean(spent[HANGING]),
    )


def _mean(seconds: Sequence[float]) -> float:
    return sum(seconds) / len(seconds) if seconds else 0.0


def _probes(home: Path, servers: Servers) -> Counter[int]:
    """How often each server's breaker let a probe through."""
    by_url = {origin.url: number for number, origin in enumerate(servers.all)}
    with sqlite3.connect(home / "repli.db") as connection:
        moves = connection.execute("SELECT place FROM breaker_moves WHERE new = 'half_open'").fetchall()
    return Counter(by_url[place] for (place,) in moves if place in by_url)


def _wait_for_the_probes(home: Path) -> float:
    """Wait until every open breaker lets a probe through; how long that took."""
    started = time.monotonic()
    while time.monotonic() < started + PROBE_WAIT_S:
        _, views = _repli(home, "breakers", "--json")
        due = [view["next_probe_at"] for view in views if view["state"] == "open"]
        left_s = max(
            ((datetime.fromisoformat(at) - datetime.now(UTC)).total_seconds() for at in due if at), default=0.0
        )
        if left_s <= 0:
            return time.monotonic() - started
        time.sleep(min(left_s + 0.5, 60))
    raise SystemExit("a breaker lets no probe through")


def _repli(home: Path, *arguments: str) -> tuple[float, Any]:
    """Run a command on the store of `home`; return its seconds and the document that it printed."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("REPLI_", "PREFECT_"))}
    environ |= {
        "REPLI_HOME": str(home),
        "REPLI_GPU_DEVICE": "cpu",
        "REPLI_ALLOW_PRIVATE_ADDRESSES": "1",
        "REPLI_FETCH_TIME_LIMIT_S": f"{LIMIT_S:g}",
    }
    started = time.monotonic()
    command = [sys.executable, "-m", "repli.flows.cli.app", *arguments]
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True)
    return time.monotonic() - started, json.loads(done.stdout)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
