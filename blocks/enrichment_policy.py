"""The block that says how far a run may fall, and what that costs. Its form is made from the chains that the code
declares, so a rung of one's own is in it at once.

Prefect's server keeps what its form sends without asking this class. So the form leaves no room for what cannot work:
a rung is a number with bounds, not a name to type, and a stage that may be given up has its `skip`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from prefect.blocks.core import Block
from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator, model_validator

from repli.tasks.fallback import SKIP, AnyChain, Breaker, UsageError
from repli.tasks.fallback.policy import ALL, BreakerPolicy, Choice, Policy, RetryPolicy, rung_names
from repli.tasks.stages.default import CHAINS, PIPELINE, declared_breakers

EXPECTED = (ALL, *(f"{chain.stage}.{rung}" for chain in CHAINS for rung in chain.rung_names))
"""The choices of `expect`."""
LEAST_SKIP = 0.01
LONGEST_S = 30 * 24 * 3600.0


class Form(BaseModel):
    """A group of fields. A field that it does not have is refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _has_no_others(cls, values: Any) -> Any:
        names = [info.alias or name for name, info in cls.model_fields.items()]
        if isinstance(values, dict) and (unknown := [name for name in values if name not in names]):
            raise ValueError(f"there is no {unknown[0]!r} here; choose from {', '.join(names)}")
        return values

    def values(self) -> dict[str, Any]:
        """The values by their outside names."""
        return self.model_dump(by_alias=True)


def _form(name: str, title: str, fields: Mapping[str, tuple[Any, Any]]) -> type[Form]:
    """A form of these fields. They carry an underscore inside, so that none hides a method of pydantic's."""
    definitions: dict[str, Any] = {f"{field}_": definition for field, definition in fields.items()}
    return create_model(name, __base__=Form, __cls_kwargs__={"title": title}, **definitions)


def _group(position: int, title: str, form: type[Form], description: str | None = None) -> tuple[type[Form], Any]:
    extra: dict[str, Any] = {"position": position}
    field = Field(default_factory=form, alias=title, title=title, description=description, json_schema_extra=extra)
    return form, field


def _chains() -> type[Form]:
    """A form of all stages with something to choose."""
    chains = [chain for chain in CHAINS if len(chain.rung_names) > 1]
    return _form(
        "Chains",
        "Chains",
        {
            chain.stage: _group(position, chain.stage, _chain(chain), f"As declared: {_declared(chain)}.")
            for position, chain in enumerate(chains)
        },
    )


def _chain(chain: AnyChain) -> type[Form]:
    fields = {
        rung.name: (float, _penalty(position, rung.name, rung.factor, about=_about(rung.run)))
        for position, rung in enumerate(chain.rungs)
    }
    if chain.skip:
        about = f"Given up: no value, and confidence 0. At least {LEAST_SKIP}."
        field = _penalty(len(fields), SKIP, chain.skip.factor, about=about, least=LEAST_SKIP)
        fields[SKIP] = (float, field)
    return _form(f"{chain.stage}_chain", chain.stage, fields)


def _penalty(position: int, rung: str, declared: Decimal, *, about: str, least: float = 0) -> Any:
    # `minimum` is for forms: a value below it is left to the policy, which says more.
    extra: dict[str, Any] = {"position": position, "minimum": least}
    return Field(
        default=float(declared), alias=rung, title=rung, description=about, ge=0, le=1, json_schema_extra=extra
    )


def _declared(chain: AnyChain) -> str:
    rungs = [f"{rung.name} {rung.penalty}" for rung in chain.rungs]
    return " · ".join([*rungs, *([f"{SKIP} {chain.skip.penalty}"] if chain.skip else [])])


def _about(run: Callable[..., Any]) -> str:
    """The first paragraph of a rung's docstring."""
    text = inspect.getdoc(run) if inspect.isfunction(run) else None
    return " ".join((text or "").partition("\n\n")[0].split())


def _breakers() -> type[Form]:
    """A form of the breakers of each stage."""
    stages: dict[str, dict[str, Breaker]] = {}
    for name, breaker in declared_breakers().items():
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
                        rung: _group(place, rung, _breaker(stage, rung, breaker))
                        for place, (rung, breaker) in enumerate(rungs.items())
                    },
                ),
            )
            for position, (stage, rungs) in enumerate(stages.items())
        },
    )


_BREAKER: Mapping[str, tuple[type, str, str, float]] = {
    "failures": (int, "Failures", "So many within the window open it.", 1000),
    "within_s": (float, "BatchDispatcher (s)", "Failures count for so long.", LONGEST_S),
    "open_for_s": (
        float,
        "First cool-down (s)",
        "So long nobody calls it. A failed probe doubles that.",
        LONGEST_S,
    ),
    "open_for_at_most_s": (float, "Longest cool-down (s)", "The doubling ends here.", LONGEST_S),
}


def _breaker(stage: str, rung: str, declared: Breaker) -> type[Form]:
    fields: dict[str, tuple[Any, Any]] = {}
    for position, (name, (kind, title, about, most)) in enumerate(_BREAKER.items()):
        extra: dict[str, Any] = {"position": position}
        default = getattr(declared, name)
        field = Field(
            default=default, alias=name, title=title, description=about, ge=1, le=most, json_schema_extra=extra
        )
        fields[name] = (kind, field)
    return _form(f"{stage}_{rung}_breaker", rung, fields)


class RetryQueue(Form, title="Retry queue"):
    """When items are done again."""

    below: float = Field(
        default=RetryPolicy().below,
        ge=0,
        le=1,
        title="Queue below",
        description="Stored items of a quality below it are queued. 1 queues all that is not whole.",
        json_schema_extra={"position": 0},
    )
    tries: int = Field(
        default=RetryPolicy().tries,
        ge=1,
        le=20,
        title="Tries",
        description="So many without a gain, and an item is parked until a person brings it back.",
        json_schema_extra={"position": 1},
    )
    delay_s: float = Field(
        default=RetryPolicy().delay_s,
        ge=1,
        le=24 * 3600,
        title="First delay (s)",
        description="From one try to the next. It doubles with each.",
        json_schema_extra={"position": 2},
    )
    lease_s: float = Field(
        default=RetryPolicy().lease_s,
        ge=10,
        le=24 * 3600,
        title="Lease (s)",
        description="What a run that died had in hand is free again after so long.",
        json_schema_extra={"position": 3},
    )


if TYPE_CHECKING:  # made from the chains, which a type checker cannot follow

    class Chains(Form): ...  # noqa: D101

    class Breakers(Form): ...  # noqa: D101
else:
    Chains, Breakers = _chains(), _breakers()


class EnrichmentPolicy(Block):
    """The rungs of each stage with their penalties, the breakers, the retry queue, and what a drill has to cover.

    Making one raises `ValidationError`, with the reason, for a policy that cannot work.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    _block_type_name = "Enrichment Policy"
    _block_type_slug = "enrichment-policy"
    _description = (
        "How far Repli may fall, and what that costs: the rungs of each stage with their penalties, the breakers, the "
        "retry queue, and the rungs that a drill has to cover. Each run goes by the document named `default`, from the "
        "next one on."
    )

    chains: Chains = Field(
        default_factory=Chains,
        title="Chains",
        description="The penalty is the factor, up to 1, that using a rung puts on an item's quality. The rung of the "
        "highest penalty is tried first, and it must have 1. 0 leaves a rung out.",
    )
    breakers: Breakers = Field(
        default_factory=Breakers,
        title="Breakers",
        description="When a rung that keeps failing is not called any more, and for how long.",
    )
    retry_queue: RetryQueue = Field(
        default_factory=RetryQueue, title="Retry queue", description="When items are done again."
    )
    expect: tuple[Annotated[str, Field(json_schema_extra={"enum": list(EXPECTED)})], ...] = Field(
        default=(),
        title="Expected in a drill",
        description="Rungs that fail the drill where they are not covered: they cannot run there (no device, no "
        "model), or the sample has no item for their stage. `all` is every rung. Nothing: what is not covered is "
        "reported, and fails nothing.",
    )

    @field_validator("expect", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return rung_names(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _works(self) -> Self:
        try:
            PIPELINE.with_policy(self.policy())
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self

    def policy(self) -> Policy:
        """Return what differs from the declared chains and breakers, and what a drill has to cover."""
        chains, breakers = Chains().values(), Breakers().values()
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
        """When items are done again."""
        return RetryPolicy(**self.retry_queue.values())


def _best_first(penalties: Mapping[str, float]) -> Choice:
    """The rungs in use by falling penalty, those of one penalty as they are declared, `skip` last."""
    used = [(rung, penalty) for rung, penalty in penalties.items() if penalty > 0]
    used.sort(key=lambda pair: (pair[0] == SKIP, -pair[1]))
    return tuple((rung, str(Decimal(repr(penalty)).normalize())) for rung, penalty in used)
