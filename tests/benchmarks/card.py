"""A card at work and in trouble: for a machine with a CUDA device, which needs no network.

``python -m tests.benchmarks.card --out FOLDER`` takes a catalogue of 3,072 items, each with a page of text and a photo
of two megapixels, through `repli run`. It prints as it goes, and writes its lines and results to files in the folder:

* night: with the card and without it (`--force classify_image=cpu`), and the share of time that the card is busy. Aim:
  four times as fast;
* memory: another process takes the card's memory in the midst of the run and gives it back. No item may be lost, and
  runs of `reprocess` have to lift all of them, but those of whose photos no model is sure;
* poison: a process with the card gets a sticky CUDA error in the midst. No item may be lost, and the process has to be
  replaced.

It ends with an error where one of them does not hold. ``--emulated --items 40`` rehearses all of it without a card.

A machine without a network brings torch for CUDA itself; the rest is brought along, the weights too, which are in
packages. On a machine with a network, PYTHON being the other one's version, such as 3.12::

    .venv/bin/pip freeze --exclude-editable | grep -vE '^(torch|torchvision|nvidia|triton)' > needed.txt
    .venv/bin/pip download --no-deps --only-binary=:all: --python-version PYTHON --platform manylinux_2_28_x86_64 \\
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d wheels -r needed.txt
    tar cf - wheels | split -b 60m - wheels.part-

Bring the parts and the repository, and there::

    cat wheels.part-* | tar xf -
    python3 -m pip install --no-index --no-deps --target site wheels/*.whl
    PYTHONPATH=site:. python3 -m tests.benchmarks.card --out results
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from repli.tasks.models.cards import visible_devices
from tests.benchmarks import card_night, card_trouble
from tests.benchmarks.card_setting import Setting
from tests.support.catalogues import photo_catalogue
from tests.support.photos import LARGE

ITEMS = 3072
WARM_UP_ITEMS = 16
PARTS = ("night", "memory", "poison")


def main() -> None:
    """Run the parts that the command line asks for, and end with an error where one of them does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results")
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--emulated", action="store_true", help="rehearse without a card")
    arguments = parser.parse_args()
    if not (arguments.emulated or visible_devices()):
        sys.exit("there is no CUDA device here; rehearse with --emulated --items 40")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        setting = Setting(
            manifest=photo_catalogue(folder / "catalogue", arguments.items, LARGE),
            items=arguments.items,
            folder=folder,
            out=arguments.out,
            is_emulated=arguments.emulated,
        )
        broken = [part for part, holds in run(setting, arguments.only).items() if not holds]
        setting.tell(f"does not hold: {', '.join(broken)}" if broken else "all of it holds")
    if broken:
        sys.exit(1)


def run(setting: Setting, parts: tuple[str, ...]) -> dict[str, bool]:
    """Run the parts, and return whether each of them holds."""
    holds = {}
    setting.tell(f"{setting.items} items{', rehearsed without a card' if setting.is_emulated else ''}")
    if "night" in parts:
        card_night.warm_up(setting, photo_catalogue(setting.folder / "warm-up", WARM_UP_ITEMS, LARGE))
        setting.tell("warmed up")
        holds["night"] = card_night.compare(setting)
    if {"memory", "poison"} & set(parts):
        with card_trouble.standing(setting) as (commands, client):
            setting.tell("the standing cluster is up")
            if "memory" in parts:
                holds["memory"] = card_trouble.memory(setting, commands)
            if "poison" in parts:
                holds["poison"] = card_trouble.poison(setting, commands, client)
    return holds


if __name__ == "__main__":
    main()
