"""Start the Prefect API and the Dask cluster of a run on this machine, unless the environment names running ones."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from repli.flows.server.discovery import find
from repli.flows.server.environment import QUIET, STAGE_IMPORTS, TRUST_SERVER, environment
from repli.flows.server.phases import begin_phase
from repli.flows.server.prefect_requests import CHECK_ADDRESS, CHECK_SERVE, check_server
from repli.flows.server.private_server import PrivateServer, drop_unsent
from repli.tasks.fallback import RepliError, StoreError, UsageError
from repli.tasks.models.cards import visible_devices
from repli.tasks.pipeline import registry
from repli.tasks.runtime.imports import without_collections
from repli.tasks.runtime.processors import processors_of_machine
from repli.tasks.runtime.timeline import timed
from repli.tasks.settings import Settings

MAX_WORKERS = 8
WORKER_START = "repli.tasks.execution.worker_start"
HASH_SEED = "6640"
"""The seed that distributed's nannies give to all workers."""
MEMORY_PER_WORKER = 3 * 1024**3  # torch, timm, sentence-transformers and Great Expectations, with room for a batch


@contextmanager
def cluster(
    settings: Settings, *, batches: int | None = None, meanwhile: Callable[[], object] = lambda: None
) -> Iterator[str]:
    """Yield the address of a Dask scheduler for one run, with a Prefect API that the run and its workers know.

    A server that `PREFECT_API_URL` names is used; else the server and the cluster of a `repli serve` on the same home;
    else private ones are started. Enter it before anything imports Prefect: the server is named in the environment, for
    this process and the workers it starts.

    Args:
        batches: How many batches the run has: a local cluster has no more workers than that. None: any number.
        meanwhile: Called in a thread while the server and the workers start, to import what the run needs. The server
            is named in the environment by then. The address is yielded once it has returned.

    Raises:
        UsageError: `PREFECT_API_URL` is not a web address; or the workers are on another machine, which cannot reach a
            server on this one.
        RepliError: The named server does not answer, or a private one did not start.
    """
    is_named = bool(os.environ.get("PREFECT_API_URL"))
    served = None if is_named else find(settings.home)
    if not (is_named or served):
        begin_phase("starting the Prefect server")
    server = None if is_named or served else _private_server(settings)
    if served:
        _check_workers_are_local(settings)
        settings = replace(settings, dask_address=settings.dask_address or served.dask_address)
    known = server.environment if server else served.environment if served else {}
    logging.raiseExceptions = False  # a log that Prefect cannot send is told by the run's notes, not on stderr
    with environment({**known, **QUIET, **TRUST_SERVER}):
        if not server:
            check_server(CHECK_SERVE if served else CHECK_ADDRESS)  # before a cluster is started for nothing
        try:
            preload_workers(settings, batches)  # before the thread, which would slow it down
            import distributed  # noqa: F401  the thread and the cluster both import it: neither may get half of it

            with ThreadPoolExecutor(1, "meanwhile") as thread:
                imports = thread.submit(_import, meanwhile)
                with dask_cluster(settings, batches) as address:
                    if server:
                        begin_phase("waiting for the Prefect server")
                        server.wait()
                    imports.result()
                    begin_phase("starting the run")
                    yield address
        except (StoreError, UsageError):  # they name what is wrong themselves
            raise
        except Exception as error:
            if server and (problem := server.disk_problem()):
                raise RepliError(problem) from error
            raise
        finally:
            if server:
                server.stop()
            else:
                drop_unsent()


def _import(work: Callable[[], object]) -> None:
    with timed("command", "import Prefect and the flow"), without_collections():
        work()


@contextmanager
def known_server(settings: Settings) -> Iterator[None]:
    """Set the variables of a `repli serve` on the same home while the block runs, unless `PREFECT_API_URL` is set."""
    served = None if os.environ.get("PREFECT_API_URL") else find(settings.home)
    with environment(served.environment if served else {}):
        yield


def _private_server(settings: Settings) -> PrivateServer:
    _check_workers_are_local(settings)
    return PrivateServer(settings)


def _check_workers_are_local(settings: Settings) -> None:
    address = settings.dask_address
    if address and urlsplit(address).hostname not in {"127.0.0.1", "localhost", "::1"}:
        raise UsageError(
            f"the workers of {address} cannot reach a private Prefect server; set PREFECT_API_URL to one that they can"
        )


@contextmanager
def dask_cluster(settings: Settings, batches: int | None = None) -> Iterator[str]:
    """Yield the address of a Dask scheduler: that of the settings, or of a cluster on this machine for the block.

    Args:
        batches: The most workers that a cluster on this machine has; None for as many as the machine has room for.
    """
    if settings.dask_address:
        yield settings.dask_address
        return
    preload_workers(settings, batches)
    import dask.config
    from distributed import Nanny, Scheduler, SpecCluster

    options = worker_options(settings, batches)
    # A nanny sets the variables of its worker in this process too, and would go by them in the next run as well.
    with dask.config.set(_dask_options(len(options))), environment(_worker_variables(len(options))):
        # On loopback only: a client that reaches a worker can run any code there.
        loopback = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
        of_all = {**loopback, "nthreads": 1, "preload": [WORKER_START]}
        workers = {
            number: {"cls": Nanny, "options": {**of_all, "name": f"worker-{number}", **own}}
            for number, own in enumerate(options)
        }
        scheduler = {"cls": Scheduler, "options": {**loopback, "port": 0}}
        begin_phase(f"starting {len(workers)} worker{'s' if len(workers) > 1 else ''}")
        with SpecCluster(workers=workers, scheduler=scheduler, silence_logs=40) as local:
            _warm_up(local, settings)
            try:
                yield local.scheduler_address
            finally:
                logging.getLogger("distributed").setLevel(logging.CRITICAL)  # the errors of cancelled tasks are noise


def _dask_options(workers: int) -> dict[str, Any]:
    # C libraries read these once, so they are set before a worker starts.
    environ = {**KEEP_MEMORY, "OMP_NUM_THREADS": str(max(1, processors_of_machine() // workers))}
    options: dict[str, Any] = {f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in environ.items()}
    # The flow handles a worker's death itself, with smaller batches: Dask must not retry the same task first.
    options["distributed.scheduler.allowed-failures"] = 0
    # The profiler reads the frames of running threads a hundred times a second. On CPython 3.11 such a frame may be
    # invalid, and the worker prints a traceback (distributed #8163, #8916). Nothing here reads the profile.
    options["distributed.worker.profile.enabled"] = False
    if sys.platform == "linux":  # the default from Python 3.14 on; elsewhere some libraries break
        options["distributed.worker.multiprocessing-method"] = "forkserver"
    return options


def _worker_variables(workers: int) -> dict[str, str]:
    """Return the variables that a nanny sets before it starts its worker, most if this process has no others."""
    import dask.config

    with dask.config.set(_dask_options(workers)):
        configured = dict(dask.config.get("distributed.nanny.pre-spawn-environ"))  # the block's end changes the mapping
    variables = {name: os.environ.get(name, str(value)) for name, value in configured.items() if value is not None}
    return {**variables, "PYTHONHASHSEED": HASH_SEED}


def _stage_imports(settings: Settings) -> str:
    """Return the modules that the stages of the run's pipeline need, separated by commas; '' without a pipeline."""
    if settings.pipeline is None:
        return ""
    pipeline = registry.load(settings.pipeline, settings.pipeline_folder)
    modules = [module for stage in pipeline.stages for module in stage.hooks.imports(settings)]
    return ",".join(dict.fromkeys(modules))


def preload_workers(settings: Settings, batches: int | None = None) -> None:
    """Start the fork server of the workers, if there is to be one, and make it import what all workers need.

    A fork server that runs already is kept. Ctrl-C is blocked in it until it leads a session of its own, see
    `worker_imports`.

    Args:
        settings: With the address of a cluster, nothing is started.
        batches: As of `dask_cluster`.
    """
    if settings.dask_address or sys.platform != "linux":
        return
    from multiprocessing import forkserver, resource_tracker

    modules = _stage_imports(settings)
    # As a nanny does before it starts a worker: C libraries read them once, and all workers hash alike.
    variables = _worker_variables(len(worker_options(settings, batches)))
    forkserver.set_forkserver_preload(["repli.flows.server.worker_imports"])
    resource_tracker.ensure_running()  # first: its start unblocks the signal
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with environment({STAGE_IMPORTS: modules, **variables}):
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _warm_up(local: Any, settings: Settings) -> None:
    """Make every worker begin with its models while the server starts. It does not wait for them: they may hang."""
    from distributed import Client, fire_and_forget

    from repli.tasks.execution.warm_up import warm_up

    with Client(local, set_as_default=False) as client:
        for worker in client.scheduler_info(n_workers=-1)["workers"]:
            fire_and_forget(client.submit(warm_up, settings, workers=[worker], key=f"warm-up-{worker}"))


def worker_options(settings: Settings, batches: int | None = None) -> list[dict[str, Any]]:
    """Return the options of each local worker.

    A worker with an accelerator carries the resource `GPU`: with `cuda` one worker for each visible device of this
    machine, with an emulated device every worker.
    """
    from distributed.system import MEMORY_LIMIT

    devices = worker_devices([] if settings.is_gpu_emulated else visible_devices(), _room(), batches)
    # The fork server keeps the environment of its start; a worker needs the current one, which names Prefect's server.
    plain: dict[str, Any] = {"memory_limit": MEMORY_LIMIT // min(len(devices), _room()), "env": dict(os.environ)}
    if settings.is_gpu_emulated:
        return [{**plain, "resources": {"GPU": 1}} for _ in devices]
    return [
        {
            **plain,
            **({"resources": {"GPU": 1}} if device else {}),
            "env": {**plain["env"], "CUDA_VISIBLE_DEVICES": device},
        }
        for device in devices
    ]


def worker_devices(devices: Sequence[str], room: int, batches: int | None) -> list[str]:
    """Return the CUDA device of each worker, "" for a worker without one.

    Args:
        devices: Each gets a worker.
        room: How many workers the machine has room for. The others have no device.
        batches: The most workers, but for one; None for no limit. A batch is in one worker at a time.
    """
    workers = [*devices, *[""] * (room - len(devices))]
    return workers if batches is None else workers[: max(1, batches)]


def _room() -> int:
    """Return how many workers this machine has room for."""
    from distributed.system import MEMORY_LIMIT

    return int(max(1, min(processors_of_machine(), MAX_WORKERS, MEMORY_LIMIT // MEMORY_PER_WORKER)))


# By default Dask's workers return freed memory at once, so that every forward pass of a model faults its pages in
# again: an image took 50 ms, and 19 ms where the C library keeps the memory (1 thread, efficientnet_lite0).
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(4 * 1024**3), "MALLOC_MMAP_THRESHOLD_": str(1024**3)}
