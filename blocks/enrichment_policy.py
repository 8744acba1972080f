"""The block of the fallback policy. Its form is built from a pipeline, so it shows the rungs of custom stages too.

Prefect's server stores the form's values without calling this class. So the form itself must exclude invalid values: a
rung is a number with bounds instead of a name to type, and a stage that may be skipped has its `skip`.
"""

from __future__ import annotations

import inspect
import types
import warnings
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Self

from prefect.blocks.core import Block
from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator, model_validator

from repli.tasks.fallback import SKIP, AnyChain, Breaker, UsageError
from repli.tasks.fallback.policy import ALL, BreakerPolicy, Choice, Policy, RetryPolicy, rung_names
from repli.tasks.pipeline import Pipeline

LEAST_SKIP = 0.01
LONGEST_S = 30 * 24 * 3600.0


class Form(BaseModel):
    """A group of fields. An unknown field is refused, with the names of the known ones."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, values: Any) -> Any:
        names = [info.alias or name for name, info in cls.model_fields.items()]
        if isinstance(values, dict) and (unknown := [name for name in values if name not in names]):
            raise ValueError(f"there is no {unknown[0]!r} here; choose from {', '.join(names)}")
        return values

    def values(self) -> dict[str, Any]:
        """Return the values by the names that the form shows."""
        return self.model_dump(by_alias=True)


def _form(name: str, title: str, fields: Mapping[str, tuple[Any, Any]]) -> type[Form]:
    """Build a form of these fields. Their attributes end in an underscore, so that none hides a method of pydantic."""
    definitions: dict[str, Any] = {f"{field}_": definition for field, definition in fields.items()}
    return create_model(name, __base__=Form, __cls_kwargs__={"title": title}, **definitions)


def _group(position: int, title: str, form: type[Form], description: str | None = None) -> tuple[type[Form], Any]:
    extra: dict[str, Any] = {"position": position}
    field = Field(default_factory=form, alias=title, title=title, description=description, json_schema_extra=extra)
    return form, field


def _chains_form(pipeline: Pipeline) -> type[Form]:
    """Build the form of all stages with more than one rung."""
    chains = [chain for chain in pipeline.chains if len(chain.rung_names) > 1]
    return _form(
        "Chains",
        "Chains",
        {
            chain.stage: _group(position, chain.stage, _chain_form(chain), f"Default: {_describe(chain)}.")
            for position, chain in enumerate(chains)
        },
    )


def _chain_form(chain: AnyChain) -> type[Form]:
    fields = {
        rung.name: (float, _penalty_field(position, rung.name, rung.factor, about=_about(rung.run)))
        for position, rung in enumerate(chain.rungs)
    }
    if chain.skip:
        about = f"Skip the stage: no value, confidence 0. At least {LEAST_SKIP}."
        field = _penalty_field(len(fields), SKIP, chain.skip.factor, about=about, least=LEAST_SKIP)
        fields[SKIP] = (float, field)
    return _form(f"{chain.stage}_chain", chain.stage, fields)


def _penalty_field(position: int, rung: str, declared: Decimal, *, about: str, least: float = 0) -> Any:
    # `minimum` is only for forms: the policy refuses a lower value with a better message.
    extra: dict[str, Any] = {"position": position, "minimum": least}
    return Field(
        default=float(declared), alias=rung, title=rung, description=about, ge=0, le=1, json_schema_extra=extra
    )


def _describe(chain: AnyChain) -> str:
    rungs = [f"{rung.name} {rung.penalty}" for rung in chain.rungs]
    return " · ".join([*rungs, *([f"{SKIP} {chain.skip.penalty}"] if chain.skip else [])])


def _about(run: Callable[..., Any]) -> str:
    """Return the first paragraph of a rung's docstring."""
    text = inspect.getdoc(run) if inspect.isfunction(run) else None
    return " ".join((text or "").partition("\n\n")[0].split())


def _breakers_form(pipeline: Pipeline) -> type[Form]:
    """Build the form of the breakers of each stage."""
    stages: dict[str, dict[str, Breaker]] = {}
    for name, breaker in pipeline.breakers.items():
        stage, _, rung = name.partition(".")
        stages.setdefault(stage, {})[rung] = breaker
    return _form(
        "Breakers",
        "Breakers",
        {
            stage: _group(
                position,
                stage,
                _form(
                    f"{stage}_breakers",
                    stage,
                    {
                        rung: _group(rung_position, rung, _breaker_form(stage, rung, breaker))
                        for rung_position, (rung, breaker) in enumerate(rungs.items())
                    },
                ),
            )
            for position, (stage, rungs) in enumerate(stages.items())
        },
    )


_Setting = tuple[type, str, str, float, float]
_BREAKER: Mapping[str, _Setting] = {
    "failures": (int, "Failures", "Failures within the window that open the breaker.", 1, 1000),
    "within_s": (float, "Window (s)", "Length of the failure window.", 1, LONGEST_S),
    "open_for_s": (
        float,
        "First cool-down (s)",
        "Seconds before the first probe. Each failed probe doubles the cool-down.",
        1,
        LONGEST_S,
    ),
    "open_for_at_most_s": (float, "Longest cool-down (s)", "Upper limit of the doubled cool-down.", 1, LONGEST_S),
}
_KEYED: Mapping[str, _Setting] = {
    "at_once": (
        int,
        "Calls at once",
        "Calls of one key, such as an origin, at a time in all workers together.",
        1,
        1000,
    ),
    "per_second": (float, "Calls a second", "Calls of one key in a second. 0: as many as there are.", 0, 1000),
}
"""Settings of breakers of scope `key`."""


def _breaker_form(stage: str, rung: str, declared: Breaker) -> type[Form]:
    fields: dict[str, tuple[Any, Any]] = {}
    settings = {**_BREAKER, **(_KEYED if declared.scope == "key" else {})}
    for position, (name, (kind, title, about, least, most)) in enumerate(settings.items()):
        extra: dict[str, Any] = {"position": position}
        default = getattr(declared, name) or 0
        field = Field(
            default=default, alias=name, title=title, description=about, ge=least, le=most, json_schema_extra=extra
        )
        fields[name] = (kind, field)
    return _form(f"{stage}_{rung}_breaker", rung, fields)


class RetryQueue(Form, title="Retry queue"):
    """The form of the retry queue."""

    below: float = Field(
        default=RetryPolicy().below,
        ge=0,
        le=1,
        title="Queue below",
        description="Stored items of a lower quality are queued. 1 queues every degraded item.",
        json_schema_extra={"position": 0},
    )
    tries: int = Field(
        default=RetryPolicy().tries,
        ge=1,
        le=20,
        title="Retries",
        description="Retries without an improvement after which an item is parked, until an operator queues it again.",
        json_schema_extra={"position": 1},
    )
    delay_s: float = Field(
        default=RetryPolicy().delay_s,
        ge=1,
        le=24 * 3600,
        title="First delay (s)",
        description="Seconds from the first retry to the second. Each retry doubles the delay.",
        json_schema_extra={"position": 2},
    )
    lease_s: float = Field(
        default=RetryPolicy().lease_s,
        ge=10,
        le=24 * 3600,
        title="Lease (s)",
        description="Seconds after which claims of a crashed run expire.",
        json_schema_extra={"position": 3},
    )


class PolicyBlock(Block):
    """The block of any pipeline; `policy_block` makes the one of a pipeline, with the forms of its stages.

    Raises:
        ValidationError: The policy is invalid; the message names the stage and the rung.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    pipeline: ClassVar[Pipeline]

    chains: Form
    breakers: Form
    retry_queue: RetryQueue = Field(
        default_factory=RetryQueue, title="Retry queue", description="When to retry degraded and failed items."
    )
    expect: tuple[str, ...]

    @field_validator("expect", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        return rung_names(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_policy(self) -> Self:
        try:
            self.pipeline.with_policy(self.policy())
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self

    def policy(self) -> Policy:
        """Return the differences from the declared chains and breakers, and the rungs that a drill must cover."""
        chains, breakers = type(self.chains)().values(), type(self.breakers)().values()
        return Policy(
            chains={
                stage: _best_first(penalties)
                for stage, penalties in self.chains.values().items()
                if penalties != chains[stage]
            },
            breakers={
                f"{stage}.{rung}": BreakerPolicy(**settings)
                for stage, rungs in self.breakers.values().items()
                for rung, settings in rungs.items()
                if settings != breakers[stage][rung]
            },
            expect=self.expect,
        )

    def retry_policy(self) -> RetryPolicy:
        """Return the settings of the retry queue."""
        return RetryPolicy(**self.retry_queue.values())


def _best_first(penalties: Mapping[str, float]) -> Choice:
    """Return the enabled rungs by falling penalty, equal ones in declared order, `skip` last."""
    used = [(rung, penalty) for rung, penalty in penalties.items() if penalty > 0]
    used.sort(key=lambda pair: (pair[0] == SKIP, -pair[1]))
    return tuple((rung, str(Decimal(repr(penalty)).normalize())) for rung, penalty in used)


@lru_cache(maxsize=8)
def policy_block(pipeline: Pipeline) -> type[PolicyBlock]:
    """Return the block `EnrichmentPolicy` with the stages, rungs and breakers of this pipeline."""
    chains, breakers = _chains_form(pipeline), _breakers_form(pipeline)
    expected = [ALL, *(f"{chain.stage}.{rung}" for chain in pipeline.chains for rung in chain.rung_names)]
    body = {
        "__module__": __name__,
        "__qualname__": "EnrichmentPolicy",
        "__doc__": "The rungs of each stage with their penalties, the breakers, the retry queue, and the drill.",
        "__annotations__": {
            "pipeline": ClassVar[Pipeline],
            "chains": chains,
            "breakers": breakers,
            "expect": tuple[Annotated[str, Field(json_schema_extra={"enum": expected})], ...],
        },
        "_block_type_name": "Enrichment Policy",
        "_block_type_slug": "enrichment-policy",
        "_description": "The fallbacks of Repli: the rungs of each stage with their penalties, the breakers, the retry "
        "queue, and the rungs that a drill must cover. Each run uses the document named `default`; a change takes "
        "effect with the next run.",
        "pipeline": pipeline,
        "chains": Field(
            default_factory=chains,
            title="Chains",
            description="The penalty is the factor, up to 1, by which a rung multiplies an item's quality. Rungs are "
            "tried by falling penalty, and the first must have 1. 0 disables a rung.",
        ),
        "breakers": Field(
            default_factory=breakers,
            title="Breakers",
            description="When to stop calling a failing rung, and for how long.",
        ),
        "expect": Field(
            default=(),
            title="Expected in a drill",
            description="Rungs that fail the drill if they are not covered: they cannot run there (no device, no "
            "model), or the sample has no item for their stage. `all` is every rung. Empty: a rung that is not covered "
            "is reported, and fails nothing.",
        ),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Prefect's, where the process has the block of another pipeline
        block: type[PolicyBlock] = types.new_class(
            "EnrichmentPolicy", (PolicyBlock,), exec_body=lambda own: own.update(body)
        )
    return block
