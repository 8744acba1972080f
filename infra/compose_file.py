"""Read compose.yaml as processes of one machine, so that the native form has the same topology as the containers.

It supports the part of the compose language that the file uses, and replaces what needs containers: a service's host
name and 0.0.0.0 become 127.0.0.1, and a volume becomes a folder.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from repli.flows.server.ports import LOOPBACK
from repli.tasks.fallback import UsageError

COMPOSE_FILE = Path(__file__).with_name("compose.yaml")

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<how>[-?])(?P<rest>(?:[^{}]|\$\{[^{}]*\})*))?\}")
_OWN_PORT = "DASK_WORKER_HTTP_PORT"
"""A port that is used inside a container only. Natively every part needs a different one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One process of the production deployment: a service, or one of its replicas.

    Args:
        needs: Services that must answer before it is started.
        health: A command that succeeds once the part answers.
        stop_signal: The signal that ends it.
    """

    name: str
    service: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    needs: frozenset[str]
    health: tuple[str, ...]
    stop_signal: signal.Signals

    @property
    def is_dask_worker(self) -> bool:
        """Return whether it is a Dask worker: the other workers take over when it ends."""
        return self.command[:2] == ("dask", "worker")


def ports(variables: Mapping[str, str]) -> dict[str, int]:
    """Return the ports that the parts listen on, by the variable that sets each, except `DASK_WORKER_HTTP_PORT`.

    Raises:
        UsageError: A variable is no port.
    """
    defaults = dict(re.findall(r"\$\{(\w+_PORT):-(\d+)\}", _text()))
    chosen = {name: variables.get(name) or default for name, default in defaults.items() if name != _OWN_PORT}
    for name, port in chosen.items():
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
            raise UsageError(f"{name}={port[:40]!r} is no port; set it to a number from 1 to 65535, or unset it")
    return {name: int(port) for name, port in chosen.items()}


def parts(
    variables: Mapping[str, str],
    volumes: Path,
    free_port: Callable[[], int],
    profiles: Collection[str] = (),
) -> list[Part]:
    """Return the parts of compose.yaml, including those of the `profiles`.

    Args:
        variables: Values for `${NAME}`; the file has defaults for most.
        volumes: A folder that gets one folder for each volume of the file, under its name.
        free_port: Returns a port that is not in use.

    Raises:
        UsageError: A variable that the file requires is not set; the message has the file's reason.
    """
    services: Mapping[str, Mapping[str, Any]] = yaml.safe_load(_text())["services"]
    wanted = {
        name: service
        for name, service in services.items()
        if not service.get("profiles") or set(service["profiles"]) & set(profiles)
    }
    found: list[Part] = []
    for name, service in wanted.items():
        replicas = service.get("deploy", {}).get("replicas")
        for number in _numbers(replicas and substitute(str(replicas), variables)):
            own = {**variables, _OWN_PORT: str(free_port())}
            found.append(_part(name, f"{name}-{number}" if replicas else name, service, own, volumes, services))
    return found


def substitute(text: str, variables: Mapping[str, str]) -> str:
    """Replace each `${NAME}`, `${NAME:-default}` and `${NAME:?reason}` in the text, and return it.

    Raises:
        UsageError: A variable of the last kind is empty or not set.
    """

    def value(match: re.Match[str]) -> str:
        name, how, rest = match["name"], match["how"], match["rest"] or ""
        if known := variables.get(name):
            return known
        if how == "?":
            raise UsageError(f"{name} is not set; {substitute(rest, variables)}")
        return substitute(rest, variables) if how == "-" else ""

    return _VARIABLE.sub(value, text)


def _part(
    service_name: str,
    name: str,
    service: Mapping[str, Any],
    variables: Mapping[str, str],
    volumes: Path,
    services: Collection[str],
) -> Part:
    folders = {mount: str(volumes / volume) for volume, mount in _named_volumes(service)}

    def localise(value: object) -> str:
        text = substitute(str(value), variables)
        text = re.sub(rf"(?<=[/@])(?:{'|'.join(map(re.escape, services))})(?=:)", LOOPBACK, text)
        for mount, folder in folders.items():
            text = re.sub(rf"^{re.escape(mount)}(?=/|$)", lambda match: folder, text)  # noqa: B023  used at once
        return text.replace("0.0.0.0", LOOPBACK)  # noqa: S104  replaced here

    health = service["healthcheck"]["test"]
    if health[0] != "CMD":
        raise UsageError(f"compose.yaml: the health check of {service_name} must be a list that begins with CMD")
    return Part(
        name=name,
        service=service_name,
        command=tuple(map(localise, service["command"])),
        environment={key: localise(value) for key, value in service["environment"].items() if value is not None},
        needs=frozenset(service.get("depends_on", ())),
        health=tuple(map(localise, health[1:])),
        stop_signal=signal.Signals[service.get("stop_signal", "SIGTERM")],
    )


def _named_volumes(service: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for volume in service.get("volumes", ()):
        source, _, mount = volume.partition(":")
        if re.fullmatch(r"\w[\w-]*", source):  # else a folder of the host
            yield source, mount.partition(":")[0]


def _numbers(replicas: str | None) -> range:
    if replicas is None:
        return range(1, 2)
    if not (replicas.isascii() and replicas.isdigit() and 0 < int(replicas) <= 1000):
        raise UsageError(f"{replicas[:40]!r} workers cannot be started; ask for a number from 1 to 1000")
    return range(1, int(replicas) + 1)


def _text() -> str:
    return COMPOSE_FILE.read_text(encoding="utf-8")
