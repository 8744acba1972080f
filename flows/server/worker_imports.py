"""Modules that every worker needs and that take seconds to import: the fork server imports them once for all workers.

A worker then starts, and restarts after a crash, at once. Nothing is computed here and no device is opened: threads and
device contexts do not survive a fork. Prefect is left out: it reads the environment while it is imported, and each
worker has its own.

The fork server and its workers are a session of their own: Ctrl-C at the terminal reaches the command alone, which
ends the workers. They would print their tracebacks over its line.
"""

from __future__ import annotations

import logging
import os
import signal
from contextlib import suppress

with suppress(PermissionError):  # it leads one already
    os.setsid()
_handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # drops one that came while it was blocked, by `dask_cluster`
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
signal.signal(signal.SIGINT, _handler)

import importlib  # noqa: E402  what takes time comes after the session

from repli.flows.server.environment import STAGE_IMPORTS  # noqa: E402
from repli.tasks.models import torchvision_ops  # noqa: E402
from repli.tasks.runtime.imports import without_collections  # noqa: E402
from repli.tasks.runtime.timeline import timed  # noqa: E402

logging.raiseExceptions = False  # Prefect prints each log that it cannot send to stderr, which is the terminal

_named = [name for name in os.environ.get(STAGE_IMPORTS, "").split(",") if name]
if {"timm", "sentence_transformers"} & set(_named):
    with suppress(Exception):  # the rung that needs the module reports it
        torchvision_ops.declare()
with without_collections():  # no worker looks through what they have made either: its pages stay shared
    for _name in ("distributed", "sqlalchemy", *_named):
        with suppress(Exception), timed("fork server", f"import {_name}"):
            importlib.import_module(_name)
