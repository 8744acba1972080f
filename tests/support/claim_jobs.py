"""What worker processes do to a retry queue, all at once. Run them with `tests.support.fleet`."""

from __future__ import annotations

import signal
import time
from decimal import Decimal

from repli.tasks.execution.shared_breakers import BreakerRegistry
from repli.tasks.storage.retry import claims, retry_queue
from repli.tasks.storage.retry.claims import Claim
from tests.support import stores
from tests.support.fleet import Job, note
from tests.support.queue import OWED, POLICY, Queue

AT_ONCE = 5
LONG_S = 600.0


def claim_all(registry: BreakerRegistry, holder: str) -> Job:
    """Claim a few items at a time until there are none; which they were."""

    def job() -> list[str]:
        taken: list[str] = []
        while some := claims.claim(registry.database, holder, OWED, AT_ONCE, LONG_S):
            taken += [claim.item_id for claim in some]
        return taken

    return job


def work_off(registry: BreakerRegistry, holder: str, log: str) -> Job:
    """Claim, mend and settle until nothing is left to wait for; the run's id."""
    queue = Queue(registry.database)
    run_id = queue.begin_run()

    def job() -> str:
        while retry_queue.tally(registry.database).waiting:
            taken = claim_some(queue, holder, log)
            if not taken:
                time.sleep(0.01)
                continue
            ids = [claim.item_id for claim in taken]
            stores.mark_stored(registry.database, run_id, ids, merge=lambda steps: Decimal(1), retry_below=POLICY.below)
            claims.settle(registry.database, holder, run_id, taken, ids, POLICY)
        return run_id

    return job


def hang(registry: BreakerRegistry, holder: str, log: str) -> Job:
    """Claim, and do nothing about it, until killed."""

    def job() -> None:
        claim_some(Queue(registry.database), holder, log)
        signal.pause()

    return job


def claim_some(queue: Queue, holder: str, log: str) -> list[Claim]:
    """A few items; told in the log."""
    taken = queue.claim(holder, AT_ONCE, lease_s=LONG_S)
    for claim in taken:
        note(log, f"{holder} took {claim.item_id}")
    return taken
