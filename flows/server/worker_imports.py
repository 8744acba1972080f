"""What every worker needs and takes seconds to import: the fork server of the workers imports it, once for all of them.

A worker is then there at once, and there again at once after it died. Nothing is computed here and no device is asked
for: what is begun before a fork cannot be gone on with after it. Prefect is left out, since it reads the environment
while it is imported, and a worker's is its own.
"""

from __future__ import annotations

import importlib
from contextlib import suppress

from repli.tasks.models import torchvision_ops

with suppress(Exception):  # what cannot be imported is told by the rung that needs it, item by item
    torchvision_ops.declare()
for _name in ("distributed", "great_expectations", "sentence_transformers", "sqlalchemy", "timm", "trafilatura"):
    with suppress(Exception):
        importlib.import_module(_name)
