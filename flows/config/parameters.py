"""What a person may ask of a flow in the Prefect UI: typed, bounded, and chosen from what there is.

The flows' signatures are made of these. The form shows them, the API refuses what is none of them, and the flow refuses
it again; each names the parameter. The command line says the same in its specs, `STAGE=RUNG` and
`STAGE.RUNG=KIND[@RATE]`, which are turned into these here and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from repli.flows.config.run_request import MAX_BATCH_SIZE
from repli.tasks.fallback import SKIP, Fault, FaultKind
from repli.tasks.stages.default import CHAINS

MAX_SAMPLE = 10_000
RUNGS = tuple(f"{chain.stage}.{rung}" for chain in CHAINS for rung in chain.rung_names)
"""Every rung that is declared, in the order of the chains."""
CALLED_RUNGS = tuple(rung for rung in RUNGS if not rung.endswith(f".{SKIP}"))
"""Those in which something can fail."""


def _shown(title: str, description: str, pattern: str | None = None, **bounds: Any) -> Any:
    """A parameter as the form shows it. Prefect titles a parameter by its bare name, and says no more of it than the
    docstring does; what stands in the extra comes after that."""
    extra: dict[str, Any] = {"title": title, "description": description}
    return Field(json_schema_extra={**extra, "pattern": pattern} if pattern else extra, **bounds)


def _is_absolute(source: str) -> str:
    if source and not source.startswith("/"):
        raise ValueError(f"{source[:200]!r} is not an absolute path; flow runs have folders of their own")
    return source


def _is_one_of(choices: tuple[str, ...], value: str) -> str:
    if value not in choices:
        raise ValueError(f"there is no {value[:200]!r}; choose from {', '.join(choices)}")
    return value


def _once_a_stage(rungs: tuple[str, ...]) -> tuple[str, ...]:
    forced: dict[str, str] = {}
    for rung in rungs:
        if forced.setdefault(stage_of(rung), rung) != rung:
            raise ValueError(f"{rung}: {stage_of(rung)} is forced to {forced[stage_of(rung)]} already; choose one")
    return rungs


def stage_of(rung: str) -> str:
    """The stage of a rung that is named as `STAGE.RUNG`."""
    return rung.partition(".")[0]


AnyRung = Annotated[str, AfterValidator(partial(_is_one_of, RUNGS)), Field(json_schema_extra={"enum": list(RUNGS)})]
CalledRung = Annotated[
    str, AfterValidator(partial(_is_one_of, CALLED_RUNGS)), Field(json_schema_extra={"enum": list(CALLED_RUNGS)})
]


class FaultToInject(BaseModel):
    """A rung that is made to fail, for a share of the items: always the same ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rung: CalledRung = Field(title="Rung", description="What fails: a stage and one of its rungs.")
    kind: FaultKind = Field(
        title="Kind",
        description="oom: out of memory · error: an unforeseen exception · timeout: as if cut off · unavailable: no "
        "such device or service · garbage: an answer that means nothing · kill: the worker dies.",
    )
    rate: float = Field(1.0, ge=0, le=1, title="Rate", description="The share of the items that it strikes, 0 to 1.")

    @classmethod
    def parse(cls, spec: str) -> FaultToInject:
        """The fault that ``stage.rung=kind[@rate]`` names. Raises `UsageError` for another form."""
        fault = Fault.parse(spec)
        return cls(rung=f"{fault.stage}.{fault.rung}", kind=fault.kind, rate=fault.rate)

    def __str__(self) -> str:
        """The spec that `parse` reads."""
        return f"{self.rung}={self.kind.value}" + (f"@{self.rate!r}" if self.rate < 1 else "")


Source = Annotated[
    str,
    AfterValidator(_is_absolute),
    _shown(
        "Source",
        "A JSONL, CSV or Parquet file, or a directory of images: its absolute path on the machine that runs the flow.",
        pattern="^/",
    ),
]
"""Empty where a schedule was switched on without one: the form refuses that, and the flow fails and says why."""
Limit = Annotated[int | None, _shown("Limit", "Take at most so many items. Nothing: all of them.", ge=1)]
BatchSize = Annotated[
    int | None,
    _shown(
        "Batch size",
        "Items that travel together; 1 shows every item in the UI. It changes no result. Nothing: REPLI_BATCH_SIZE, "
        "128 unless set.",
        ge=1,
        le=MAX_BATCH_SIZE,
    ),
]
Refresh = Annotated[bool, _shown("Refresh", "Do everything again, keeping what is better already.")]
Forced = Annotated[
    tuple[AnyRung, ...],
    AfterValidator(_once_a_stage),
    _shown(
        "Force",
        "Rungs to begin with, one a stage; what is better is passed over. They touch only items with work left: use "
        "them on new items, or with Refresh.",
    ),
]
Faults = Annotated[
    tuple[FaultToInject, ...],
    _shown("Faults", "Rungs that are made to fail, to see what happens then. Nothing: none."),
]
Sample = Annotated[
    int, _shown("Sample", "Items to drill on, of every quality and media type some.", ge=1, le=MAX_SAMPLE)
]


def forced_by(specs: Iterable[str]) -> tuple[str, ...]:
    """The rungs that specs of the form `STAGE=RUNG` name."""
    return tuple(spec.replace("=", ".", 1) for spec in specs)


def force_specs(rungs: Sequence[str]) -> tuple[str, ...]:
    """The specs that name these rungs."""
    return tuple(rung.replace(".", "=", 1) for rung in rungs)


def faults_by(specs: Iterable[str]) -> tuple[FaultToInject, ...]:
    """The faults that specs name. Raises `UsageError` for one that names none."""
    return tuple(FaultToInject.parse(spec) for spec in specs)


def fault_specs(faults: Sequence[FaultToInject]) -> tuple[str, ...]:
    """The specs that name these faults."""
    return tuple(map(str, faults))
