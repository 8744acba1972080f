"""The API of a Prefect server on loopback, for processes that have not imported Prefect."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from typing import Any

ANSWER_LIMIT_S = 30


def ask(api_url: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """Return the API's answer to a GET request, or to a POST request with this `body`.

    Raises:
        OSError: There is no answer, or it is an error.
    """
    request = urllib.request.Request(  # noqa: S310  http on loopback
        f"{api_url}/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=ANSWER_LIMIT_S) as answer:  # noqa: S310  http on loopback
        return json.load(answer)
