"""Every error Repli raises on purpose.

::

    RepliError
    ├── UsageError          what the caller asked for cannot be done as asked (exit status 2)
    ├── StoreError          the store cannot be reached or written (exit status 1)
    ├── IllegalMove         a status or a breaker was asked to change in a way its table does not have
    └── RungError           why a rung did not serve; raised by rungs, read by the chain
        ├── OutOfMemory     splitting the batch may cure it
        ├── Unavailable     no such device, model or service here; nothing cures it now
        ├── TimedOut        the rung was cut off at its time limit
        ├── BreakerOpen     the rung keeps failing, so it was not called
        ├── Incompatible    a rule forbids the rung beside what served an earlier stage, so it was not called
        ├── BadAnswer       the rung answered something its chain does not accept
        └── ItemError       this one item cannot be served; trying again may help
            └── InvalidItem this one item is wrong in itself; trying again cannot help

The *type* says what may be retried, so a rung classifies a failure once, where it is known, and nobody
parses messages. Each takes one message, and so pickles.
"""

from __future__ import annotations


class RepliError(Exception):
    """Root of the tree."""


class UsageError(RepliError):
    """What the caller asked for cannot be done as asked. The message names the option and the next step."""


class StoreError(RepliError):
    """The store cannot be reached or written."""


class IllegalMove(RepliError):
    """A step or a breaker was asked to make a move that its table of moves does not have. Nothing changed."""


class RungError(RepliError):
    """Why a rung did not serve."""


class OutOfMemory(RungError):
    """The call did not fit in memory. The chain frees what it can, halves the batch and tries again."""


class Unavailable(RungError):
    """The device, model or service is not here. The chain goes to the next rung at once."""


class TimedOut(RungError):
    """The rung was cut off at its time limit."""


class BreakerOpen(RungError):
    """The rung's breaker refused the call."""


class Incompatible(RungError):
    """A rule forbids the rung beside what served an earlier stage."""


class BadAnswer(RungError):
    """The rung answered, but not with one valid outcome per item."""


class ItemError(RungError):
    """This item could not be served; its neighbours are not concerned."""


class InvalidItem(ItemError):
    """This item is wrong in itself: trying again cannot help until its record changes."""
