"""Modules that every worker needs and that take seconds to import: the fork server imports them once for all workers.

A worker then starts, and restarts after a crash, at once. Nothing is computed here and no device is opened: threads and
device contexts do not survive a fork. Prefect is left out: it reads the environment while it is imported, and each
worker has its own.
"""

from __future__ import annotations

import importlib
import os
from contextlib import suppress

from repli.flows.server.environment import STAGE_IMPORTS
from repli.tasks.models import torchvision_ops

_named = [name for name in os.environ.get(STAGE_IMPORTS, "").split(",") if name]
if _named:
    with suppress(Exception):  # the rung that needs the module reports it
        torchvision_ops.declare()
for _name in ("distributed", "sqlalchemy", *_named):
    with suppress(Exception):
        importlib.import_module(_name)
