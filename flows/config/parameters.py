"""Parameters of the flows, as Prefect's UI shows them: typed and bounded.

The flows' signatures are made of these. The form shows them, the API refuses an illegal value, and the flow refuses it
again; each refusal names the parameter. Which rungs there are depends on the pipeline of the run: `repli serve` lists
those of its pipeline in the forms (`with_choices`), and the flow checks the names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from repli.flows.config.run_request import MAX_BATCH_SIZE
from repli.flows.server.rung_choices import CALLED, CHOICES, RUNGS
from repli.tasks.fallback import Directives, Fault, FaultKind
from repli.tasks.sources.manifest.options import FIELDS

MAX_SAMPLE = 10_000
RUNG_PATTERN = r"^[A-Za-z][A-Za-z0-9_]*\.[A-Za-z][A-Za-z0-9_]*$"


def _shown(title: str, description: str, pattern: str | None = None, **bounds: Any) -> Any:
    """Return a parameter as the form shows it.

    The title and the description go into the extra, which is applied last: Prefect sets its own first, from the
    parameter's name and the docstring.
    """
    extra: dict[str, Any] = {"title": title, "description": description}
    return Field(json_schema_extra={**extra, "pattern": pattern} if pattern else extra, **bounds)


def _is_absolute(source: str) -> str:
    if source and not source.startswith("/"):
        raise ValueError(f"{source[:200]!r} is not an absolute path; flow runs have folders of their own")
    return source


def _once_a_stage(rungs: tuple[str, ...]) -> tuple[str, ...]:
    forced: dict[str, str] = {}
    for rung in rungs:
        stage = rung.partition(".")[0]
        if forced.setdefault(stage, rung) != rung:
            raise ValueError(f"{rung}: {stage} is forced to {forced[stage]} already; choose one")
    return rungs


RungChoice = Annotated[str, Field(pattern=RUNG_PATTERN, json_schema_extra={CHOICES: RUNGS})]
CalledRungChoice = Annotated[str, Field(pattern=RUNG_PATTERN, json_schema_extra={CHOICES: CALLED})]


class FaultToInject(BaseModel):
    """A rung that is made to fail, for a share of the items: always the same items."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rung: CalledRungChoice = Field(title="Rung", description="The stage and the rung that fail.")
    kind: FaultKind = Field(
        title="Kind",
        description="oom: out of memory · error: an unforeseen exception · timeout: as if cut off · unavailable: no "
        "such device or service · garbage: a meaningless answer · kill: the worker dies.",
    )
    rate: float = Field(1.0, ge=0, le=1, title="Rate", description="Share of the items that fail, from 0 to 1.")

    @classmethod
    def from_fault(cls, fault: Fault) -> FaultToInject:
        """Return the form's entry for a fault."""
        return cls(rung=f"{fault.stage}.{fault.rung}", kind=fault.kind, rate=fault.rate)

    def as_fault(self) -> Fault:
        """Return the fault that the form's entry names."""
        stage, rung = self.rung.split(".")
        return Fault(stage=stage, rung=rung, kind=self.kind, rate=self.rate)


Source = Annotated[
    str,
    AfterValidator(_is_absolute),
    _shown(
        "Source",
        "A JSONL, CSV, TSV or Parquet file, each also with .gz, or a directory of images: its absolute path on the "
        "machine that runs the flow.",
        pattern="^/",
    ),
]
"""Empty where a schedule was switched on without a source: the form refuses that, and the flow fails."""
COLUMN_PATTERN = rf"^({'|'.join(FIELDS)})=.+$"
Columns = Annotated[
    tuple[Annotated[str, Field(pattern=COLUMN_PATTERN)], ...],
    _shown(
        "Columns",
        "FIELD=COLUMN, such as name=title: which of the manifest's columns is the id, name, document, text or image. "
        "Needed where a column has another name. Empty: those of the source's last run.",
    ),
]
Delimiter = Annotated[str, _shown("Delimiter", "Of a CSV: one character, or tab. Empty: detected.")]
EncodingName = Annotated[
    str, _shown("Encoding", "Of a CSV or JSONL, such as utf-8, utf-16 or windows-1252. Empty: detected.")
]
Folder = Annotated[str, _shown("Folder", "Where relative paths of the manifest start. Empty: in its own folder.")]
Limit = Annotated[int | None, _shown("Limit", "Maximum number of items. Empty: all of them.", ge=1)]
BatchSize = Annotated[
    int | None,
    _shown(
        "Batch size",
        "Items per batch; 1 shows every item in the UI. It changes no result. Empty: REPLI_BATCH_SIZE, or as suits the "
        "run, from 128 to 512.",
        ge=1,
        le=MAX_BATCH_SIZE,
    ),
]
Refresh = Annotated[bool, _shown("Refresh", "Process every item again, and keep results that are better already.")]
Prune = Annotated[
    bool, _shown("Prune", "At the end, remove the items of this source that are no longer in it from the store.")
]
ForcedRungs = Annotated[
    tuple[RungChoice, ...],
    AfterValidator(_once_a_stage),
    _shown(
        "Force",
        "Rungs to begin with, at most one per stage; better rungs are skipped. Only items with unfinished stages are "
        "affected: use it on new items, or with Refresh.",
    ),
]
Faults = Annotated[
    tuple[FaultToInject, ...],
    _shown("Faults", "Rungs that are made to fail, to rehearse an outage. Empty: none."),
]
PipelineName = Annotated[
    str,
    _shown("Pipeline", "MODULE:NAME, as the workers import it. Empty: REPLI_PIPELINE, else the pipeline of the store."),
]
Outdated = Annotated[
    bool, _shown("Outdated", "Also make results anew that an older version of their rung has made, such as a model's.")
]
OutdatedStage = Annotated[
    str,
    _shown(
        "Outdated stage",
        "With Outdated: only results of this stage, those of an unknown version too. Empty: all stages, and only "
        "results that are known to be of an older version.",
    ),
]
Sample = Annotated[
    int, _shown("Sample", "Items to drill on, some of every quality and media type.", ge=1, le=MAX_SAMPLE)
]


def directives_of(force: Iterable[str] = (), faults: Iterable[FaultToInject] = ()) -> Directives:
    """Return the directives that the form's `Force` and `Faults` name."""
    forced = dict(rung.split(".", 1) for rung in force)
    return Directives(forced=forced, faults=tuple(fault.as_fault() for fault in faults))
