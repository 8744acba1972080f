"""Every error that Repli raises on purpose.

::

    RepliError
    ├── UsageError          a request that cannot be carried out as given (exit status 2)
    ├── StoreError          the store cannot be reached or written (exit status 1)
    ├── IllegalMove         a status or a breaker has no such move in its table
    ├── ProcessPoisoned     after this error every call of the process fails; only a new process helps
    └── RungError           why a rung did not serve; raised by rungs, read by the chain
        ├── OutOfMemory     a smaller batch may fit
        ├── Unavailable     no such device, model or service; a retry cannot help now
        │   └── NotHere     this worker lacks it; another may have it
        ├── TimedOut        the rung was cut off at its time limit
        ├── BreakerOpen     the rung keeps failing, so it was not called
        ├── Incompatible    a rule forbids the rung after the rung that served an earlier stage, so it was not called
        ├── BadAnswer       the rung returned a value that its chain does not accept
        └── ItemError       this one item cannot be served; a retry may help
            ├── Declined    the rung does not know the answer for this item; the next rung may
            └── InvalidItem this one item is invalid; a retry cannot help

The *type* says what may be retried: the rung classifies a failure once, where the cause is known, and no caller
parses messages. Each error takes one message, so that it pickles; what else it has are attributes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

E = TypeVar("E", bound=BaseException)

_KEYS, _BREAKER = "_repli_keys", "_repli_breaker"


def keys_of(error: BaseException) -> tuple[str, ...]:
    """Return the keys of the calls that ended with `error`, such as origins; see `Breaker`."""
    keys: tuple[str, ...] = getattr(error, _KEYS, ())
    return keys


def breaker_of(error: BaseException) -> str:
    """Return the name of the breaker of these keys, `STAGE.RUNG`; '' for that of the rung which was called."""
    name: str = getattr(error, _BREAKER, "")
    return name


def with_keys(error: E, keys: Iterable[str], *, breaker: str = "") -> E:
    """Note the keys of the calls that ended with `error`, and return it. Any exception can carry them.

    Args:
        breaker: the name of their breaker, `STAGE.RUNG`; by default that of the rung which is called.
    """
    setattr(error, _KEYS, tuple(dict.fromkeys(keys)))
    setattr(error, _BREAKER, breaker)
    return error


def message_of(error: BaseException) -> str:
    """Return the message of an error of any class on one line; the name of its type where it has none."""
    try:
        message = " ".join(str(error).split())
    except Exception as problem:  # noqa: BLE001  a class of somebody else's may raise anything here
        message = f"its message cannot be read ({type(problem).__name__})"
    return message or type(error).__name__


class RepliError(Exception):
    """Root of the error tree.

    Example:
        >>> try:
        ...     raise StoreError("the store does not answer")
        ... except RepliError as error:
        ...     print(error)
        the store does not answer
    """


class UsageError(RepliError):
    """A request that cannot be carried out as given. The message names the option and the next step.

    Example:
        >>> raise UsageError("--force: fetch has no rung 'gpu'; choose from origin, cached, skip")
        Traceback (most recent call last):
        repli.tasks.fallback.errors.UsageError: --force: fetch has no rung 'gpu'; choose from origin, cached, skip
    """


class StoreError(RepliError):
    """The store cannot be reached or written.

    Example:
        >>> raise StoreError("sqlite:///store.db: the disk is full")
        Traceback (most recent call last):
        repli.tasks.fallback.errors.StoreError: sqlite:///store.db: the disk is full
    """


class IllegalMove(RepliError):
    """A step or a breaker was told to make a move that its table of moves does not have. Nothing changed."""


class ProcessPoisoned(RepliError):
    """A call left its process unusable, as an illegal access on a CUDA device does: every later call of it fails.

    It ends the chain, and the worker process: the batch runs again in another.

    Example:
        >>> raise ProcessPoisoned("gpu left its process unusable: device-side assert triggered")
        Traceback (most recent call last):
        repli.tasks.fallback.errors.ProcessPoisoned: gpu left its process unusable: device-side assert triggered
    """


class RungError(RepliError):
    """A rung did not serve.

    Example:
        >>> from repli.tasks.fallback import Failed
        >>> Failed.because(RungError("the model returned no class")).error.line
        'RungError: the model returned no class'

    `retry_after_s` is set where the rung's dependency asked to be left alone for so long (``Retry-After``): the breaker
    opens at once, and stays open as long as asked.
    """

    def __init__(self, *args: object, retry_after_s: float | None = None) -> None:
        super().__init__(*args)
        self.retry_after_s = retry_after_s


class OutOfMemory(RungError):
    """The call did not fit in memory. The chain frees memory, halves the batch and tries again.

    Example:
        >>> raise OutOfMemory("64 images do not fit in 2 GiB")
        Traceback (most recent call last):
        repli.tasks.fallback.errors.OutOfMemory: 64 images do not fit in 2 GiB
    """


class Unavailable(RungError):
    """The device, model or service is not here. The chain goes to the next rung at once.

    Example:
        >>> raise Unavailable("no CUDA device")
        Traceback (most recent call last):
        repli.tasks.fallback.errors.Unavailable: no CUDA device
    """


class NotHere(Unavailable):
    """This worker lacks the device, model or configuration. That says nothing about workers that have it.

    No breaker counts it. Where the rung's breaker is open on the workers that have it, that is the item's error.

    Example:
        >>> raise NotHere("there is no CUDA device here")
        Traceback (most recent call last):
        repli.tasks.fallback.errors.NotHere: there is no CUDA device here
    """


class TimedOut(RungError):
    """The rung was cut off at its time limit.

    Example:
        >>> raise TimedOut("classify_image.gpu was cut off after 120 s")
        Traceback (most recent call last):
        repli.tasks.fallback.errors.TimedOut: classify_image.gpu was cut off after 120 s
    """


class BreakerOpen(RungError):
    """The rung's breaker refused the call."""


class Incompatible(RungError):
    """A rule forbids the rung after the rung that served an earlier stage.

    Example:
        >>> raise Incompatible("embed_text.text_and_label does not go with classify_image by rules")
        Traceback (most recent call last):
        repli.tasks.fallback.errors.Incompatible: embed_text.text_and_label does not go with classify_image by rules
    """


class BadAnswer(RungError):
    """The rung did not return one valid outcome per item."""


class ItemError(RungError):
    """This item could not be served; the other items of its batch are not affected.

    Example:
        >>> from repli.tasks.fallback import Failed
        >>> failed = Failed.because(ItemError("there are no words in the text"))
        >>> failed.is_item_error, failed.error.retryable
        (True, True)
    """


class Declined(ItemError):
    """The rung does not know the answer for this item, such as a classifier below its threshold.

    The item goes to the next rung, and the rung's breaker does not count it. The same rung would decline again, so a
    retry cannot help.

    Example:
        >>> from repli.tasks.fallback import Failed
        >>> failed = Failed.because(Declined("no word names a class"))
        >>> failed.is_declined, failed.error.retryable
        (True, False)
    """


class NoInput(Declined):
    """An earlier stage left the rung nothing to work on, such as an image that was not fetched: only it can help.

    Example:
        >>> from repli.tasks.fallback import Failed
        >>> Failed.because(NoInput("the image was not fetched")).is_declined
        True
    """


class InvalidItem(ItemError):
    """This item is invalid: a retry cannot help until its record changes.

    Example:
        >>> from repli.tasks.fallback import Failed
        >>> failed = Failed.because(InvalidItem("the image is not an image"))
        >>> failed.is_item_error, failed.error.retryable
        (True, False)
    """
