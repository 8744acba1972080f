"""The blocks by themselves: what their forms say, what they turn into, and what they refuse."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.utilities.schema_tools.validation import validate
from pydantic import ValidationError

import blocks
from repli.blocks import Cluster, EnrichmentPolicy, ItemStore, TextModel
from repli.tasks.fallback.policy import NO_OVERRIDES, BreakerPolicy, Policy, RetryPolicy
from repli.tasks.settings import Settings
from tests.support.default_pipeline import CHAINS, PIPELINE, declared_breakers

KINDS: tuple[type[Block], ...] = (ItemStore, EnrichmentPolicy, Cluster, TextModel)
HALVED = {"cpu": 0.5, "rules": 0.45, "skip": 0.4}


def reason(error: pytest.ExceptionInfo[ValidationError]) -> str:
    """The one thing that is wrong, with its place."""
    [one] = error.value.errors()
    return f"{'.'.join(map(str, one['loc']))}: {one['msg']}"


def leaves(schema: Mapping[str, Any], group: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The fields of a form that a person fills in, by their paths, in the order in which they stand."""
    fields = sorted(group["properties"].items(), key=lambda pair: pair[1]["position"])
    for name, field in fields:
        if "$ref" in field:
            yield from leaves(schema, schema["definitions"][field["$ref"].rpartition("/")[2]], f"{path}{name}.")
        else:
            yield f"{path}{name}", field


def form(kind: type[Block]) -> dict[str, dict[str, Any]]:
    schema = kind.model_json_schema()
    return dict(leaves(schema, schema))


class TestForms:
    """What a person sees in the Prefect UI."""

    def test_all_are_registered_with_the_package(self) -> None:
        """``prefect block register -m blocks`` finds what the package has by name."""
        slugs = {"item-store", "enrichment-policy", "repli-cluster", "repli-text-model"}
        assert {kind.get_block_type_slug() for kind in KINDS} == slugs
        assert {getattr(blocks, kind.__name__) for kind in KINDS} == set(KINDS)

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_field_says_what_it_is(self, kind: type[Block]) -> None:
        """A title and a description each, a default, bounds where it is a number; and so does the block as a whole."""
        assert (kind.get_description() or "").endswith(".")
        assert form(kind)
        for path, field in form(kind).items():
            assert field["title"] and field["description"].endswith("."), path
            assert "default" in field, path
            is_bounded = field.get("items", {}).get("enum") or field.get("minimum", 0) < field.get("maximum", 0)
            assert field["type"] == "string" or is_bounded, path

    def test_the_chains_of_the_form_are_the_declared_ones(self) -> None:
        """Every rung of every stage that leaves something to choose, best first, at its penalty."""
        declared = {}
        for chain in CHAINS:
            if len(chain.rung_names) > 1:
                skip = [chain.skip.factor] if chain.skip else []
                factors = [*(rung.factor for rung in chain.rungs), *skip]
                paths = [f"chains.{chain.stage}.{name}" for name in chain.rung_names]
                declared |= dict(zip(paths, map(float, factors), strict=True))
        shown = {path: field["default"] for path, field in form(EnrichmentPolicy).items() if path.startswith("chains.")}
        assert list(shown.items()) == list(declared.items())

    def test_the_breakers_of_the_form_are_the_declared_ones(self) -> None:
        """Each with the settings that the code declares."""
        fields = form(EnrichmentPolicy)
        paths = {path.removeprefix("breakers.").rpartition(".")[0] for path in fields if path.startswith("breakers.")}
        assert paths == set(declared_breakers())
        assert fields["breakers.classify_image.gpu.failures"]["default"] == 5

    def test_the_form_leaves_no_room_for_what_cannot_work(self) -> None:
        """A penalty has bounds; a stage that may be given up has a skip, which cannot be 0; a required one has none."""
        fields = form(EnrichmentPolicy)
        cpu, skip = fields["chains.classify_image.cpu"], fields["chains.classify_image.skip"]
        assert (cpu["minimum"], cpu["maximum"], skip["minimum"]) == (0, 1, 0.01)
        assert "chains.validate.skip" not in fields
        for penalties, is_right in (({"cpu": 1.5}, False), ({"skip": 0}, False), ({"cpu": 0.75}, True)):
            assert (not validate({"chains": {"classify_image": penalties}}, EnrichmentPolicy.model_json_schema())) == (
                is_right
            )

    def test_what_a_drill_has_to_cover_is_chosen_from_the_declared_rungs(self) -> None:
        """`all`, and every rung by its stage and name."""
        declared = [f"{chain.stage}.{rung}" for chain in CHAINS for rung in chain.rung_names]
        assert form(EnrichmentPolicy)["expect"]["items"]["enum"] == ["all", *declared]
        for chosen, is_right in ((["all"], True), (["store.database"], True), (["store.skip"], False)):
            assert (not validate({"expect": chosen}, EnrichmentPolicy.model_json_schema())) == is_right

    @pytest.mark.parametrize(("kind", "field"), [(ItemStore, "database_url"), (TextModel, "key")])
    def test_what_is_secret_is_a_secret(self, kind: type[Block], field: str) -> None:
        """Prefect is told so, and its form does not show what is typed."""
        assert kind.model_json_schema()["secret_fields"] == [field]
        assert form(kind)[field]["format"] == "password"


class TestEnrichmentPolicy:
    """What it turns into."""

    def test_with_nothing_set_all_is_as_declared(self) -> None:
        """And so it is with what a form sends that nobody changed: every default, spelled out."""
        assert EnrichmentPolicy().policy() == NO_OVERRIDES
        assert EnrichmentPolicy().retry_policy() == RetryPolicy()
        spelled_out = EnrichmentPolicy().model_dump(by_alias=True, include={"chains", "breakers", "retry_queue"})
        assert spelled_out["chains"]["classify_image"] == {"gpu": 1, "cpu": 0.9, "rules": 0.8, "skip": 0.7}
        assert EnrichmentPolicy(**spelled_out).policy() == NO_OVERRIDES

    def test_a_penalty_is_the_number_that_was_typed(self) -> None:
        """Exactly, and nothing else is touched."""
        policy = EnrichmentPolicy(chains={"classify_image": HALVED}).policy()
        assert policy.chains == {"classify_image": (("gpu", "1"), ("cpu", "0.5"), ("rules", "0.45"), ("skip", "0.4"))}
        assert not policy.breakers

    def test_the_best_is_tried_first(self) -> None:
        """Rungs go by their penalties, those of one penalty as they are declared, skip last."""
        penalties = {"gpu": 0.8, "cpu": 1, "rules": 0.8, "skip": 0.8}
        [(_, choice)] = EnrichmentPolicy(chains={"classify_image": penalties}).policy().chains.items()
        assert [rung for rung, _ in choice] == ["cpu", "gpu", "rules", "skip"]

    def test_0_leaves_a_rung_out(self) -> None:
        """It is worth nothing, so it is not called."""
        policy = EnrichmentPolicy(chains={"classify_image": {"cpu": 0}}).policy()
        assert policy.chains == {"classify_image": (("gpu", "1"), ("rules", "0.8"), ("skip", "0.7"))}

    def test_breakers_and_the_queue(self) -> None:
        """Each setting arrives where it belongs."""
        block = EnrichmentPolicy(
            breakers={"classify_image": {"gpu": {"failures": 2, "open_for_s": 5}}},
            retry_queue={"below": 0.95, "tries": 2, "delay_s": 60, "lease_s": 30},
        )
        expected = BreakerPolicy(failures=2, within_s=600, open_for_s=5, open_for_at_most_s=900)
        assert block.policy().breakers == {"classify_image.gpu": expected}
        assert block.retry_policy() == RetryPolicy(below=0.95, tries=2, delay_s=60, lease_s=30)

    def test_how_often_an_origin_is_called(self) -> None:
        """Calls at once and a second, where a breaker has keys; 0 a second is no limit, as declared."""
        fields = form(EnrichmentPolicy)
        assert fields["breakers.fetch.origin.at_once"]["default"] == 4
        assert "breakers.classify_image.gpu.at_once" not in fields
        block = EnrichmentPolicy(breakers={"fetch": {"origin": {"at_once": 2, "per_second": 10}}})
        fetch = PIPELINE.with_policy(block.policy()).stage("fetch").chain.primary
        assert fetch.breaker
        assert (fetch.breaker.at_once, fetch.breaker.per_second, fetch.breaker.failures) == (2, 10, 5)
        without_rate = EnrichmentPolicy(breakers={"fetch": {"origin": {"at_once": 2}}}).policy()
        fetch = PIPELINE.with_policy(without_rate).stage("fetch").chain.primary
        assert fetch.breaker
        assert (fetch.breaker.at_once, fetch.breaker.per_second) == (2, None)

    def test_what_a_drill_has_to_cover(self) -> None:
        """As a list, or as one text, which is what a person types."""
        rungs = ("classify_image.gpu", "fetch.origin")
        for expect in (list(rungs), "classify_image.gpu, fetch.origin"):
            assert EnrichmentPolicy(expect=expect).policy() == Policy(expect=rungs)
        assert EnrichmentPolicy(expect="all").policy().expect == ("all",)

    @pytest.mark.parametrize(
        ("values", "told"),
        [
            ({"chains": {"classify_image": {"cpu": 1.5}}}, "chains.classify_image.cpu: .* less than or equal to 1"),
            ({"chains": {"classify_image": {"cpu": -1}}}, "chains.classify_image.cpu: .* greater than or equal to 0"),
            ({"chains": {"classify_image": {"cpu": float("nan")}}}, "chains.classify_image.cpu: "),
            ({"chains": {"classify_image": {"cpu": None}}}, "chains.classify_image.cpu: .* a valid number"),
            ({"chains": {"classify_image": {"skip": 0}}}, "classify_image is optional, so skip must be its last"),
            ({"chains": {"validate": {"skip": 0.5}}}, "chains.validate: .*no 'skip' here; choose from expectations, b"),
            (
                {"chains": {"classify_image": {"tpu": 1}}},
                "chains.classify_image: .*no 'tpu' here; choose from gpu, cpu",
            ),
            ({"chains": {"bake": {"oven": 1}}}, "chains: .*no 'bake' here; choose from fetch, validate"),
            ({"chains": {"classify_image": {"cpu": 0.5}}}, "skip (0.7) comes after cpu (0.5) and is worth more"),
            ({"chains": {"classify_image": {"gpu": 0.95}}}, "gpu comes first, so its penalty must be 1, not 0.95"),
            ({"chains": {"classify_image": {"gpu": 0, "cpu": 0, "rules": 0}}}, "has no rung to call"),
            ({"breakers": {"classify_image": {"gpu": {"failures": 0}}}}, "gpu.failures: .* greater than or equal to 1"),
            ({"breakers": {"classify_image": {"gpu": {"open_for_s": 3600}}}}, "the breaker of classify_image.gpu: a b"),
            (
                {"breakers": {"classify_image": {"rules": {}}}},
                "breakers.classify_image: .*no 'rules' here; choose from",
            ),
            ({"retry_queue": {"below": 2}}, "retry_queue.below: .* less than or equal to 1"),
            ({"retry_queue": {"tries": 10**9}}, "retry_queue.tries: .* less than or equal to 20"),
            (
                {"expect": ["classify_image.tpu"]},
                "expect: there is no rung 'classify_image.tpu'; choose all, or from fe",
            ),
            ({"expect": "everything"}, "expect: there is no rung 'everything'; choose all, or from fetch.origin, "),
            ({"expect": 7}, "expect: "),
            ({"chain": {}}, "chain: Extra inputs are not permitted"),
        ],
    )
    def test_what_cannot_work_is_refused(self, values: dict[str, Any], told: str) -> None:
        """When it is made, so it cannot be saved; the reason names the stage and the rung."""
        with pytest.raises(ValidationError) as error:
            EnrichmentPolicy(**values)
        assert re.search(told.replace("(", r"\(").replace(")", r"\)"), reason(error))

    def test_what_was_checked_is_what_is_saved(self) -> None:
        """It cannot be changed between the check and the saving."""
        block = EnrichmentPolicy()
        with pytest.raises(ValidationError, match="frozen"):
            block.chains = EnrichmentPolicy(chains={"classify_image": HALVED}).chains
        with pytest.raises(ValidationError, match="frozen"):
            block.chains.classify_image_.cpu_ = 2.0  # type: ignore[attr-defined]


class TestItemStore:
    """Where items lie."""

    def test_it_says_what_is_set(self) -> None:
        """As variables; what is empty says nothing."""
        assert ItemStore().variables() == {}
        store = ItemStore(database_url="postgresql://repli:geheim@db/repli", home="/srv/repli")
        assert store.variables() == {
            "REPLI_DATABASE_URL": "postgresql://repli:geheim@db/repli",
            "REPLI_HOME": "/srv/repli",
        }

    def test_it_does_not_show_the_secret(self) -> None:
        """Neither whole nor in a summary, as logs and tracebacks have them."""
        store = ItemStore(database_url="postgresql://repli:geheim@db/repli")
        assert "geheim" not in f"{store!r} {store} {store.model_dump()} {store.model_dump_json()}"

    @pytest.mark.parametrize(
        "url",
        [
            "postgres//repli:geheim@db/repli",
            "mongodb://repli:geheim@db/repli",
            "mongodb://db/repli?password=geheim",
            "postgresql://repli:geheim@db:port/repli",
            "sqlite:///:memory:",
        ],
    )
    def test_a_url_that_is_none_is_refused(self, url: str) -> None:
        """The reason says what to write, and not what was written."""
        with pytest.raises(ValidationError, match="sqlite:///FILE") as error:
            ItemStore(database_url=url, home="geheim")
        assert "geheim" not in f"{error.value} {error.value!r}"


class TestCluster:
    """Where the work is done."""

    def test_it_says_what_is_set(self) -> None:
        """With nothing set each run has a cluster of its own."""
        assert Cluster().variables() == {}
        assert Cluster(dask_address="tcp://scheduler:8786").variables() == {
            "REPLI_DASK_ADDRESS": "tcp://scheduler:8786"
        }

    @pytest.mark.parametrize(
        "address", ["scheduler", "scheduler:8786", "http://scheduler:8786", "tcp://s:x", "tcp://s"]
    )
    def test_an_address_that_is_none_is_refused(self, address: str) -> None:
        """It needs a protocol of Dask's, a host and a port."""
        with pytest.raises(ValidationError, match="dask_address"):
            Cluster(dask_address=address)


class TestTextModel:
    """The text model, which may be behind an API."""

    def test_it_is_the_variables_of_the_same_meaning(self) -> None:
        """An empty field is none, and the settings read what it says."""
        assert TextModel().variables() == {}
        block = TextModel(model="https://models.test/v1#small", key="geheim", price=0.02)
        assert block.variables() == {
            "REPLI_TEXT_MODEL": "https://models.test/v1#small",
            "REPLI_TEXT_MODEL_KEY": "geheim",
            "REPLI_TEXT_MODEL_PRICE": "0.02",
        }
        api = Settings.from_environment(block.variables()).models.text_api
        assert api
        assert (api.url, api.model, api.key, api.price) == ("https://models.test/v1", "small", "geheim", 0.02)

    def test_its_key_is_not_shown(self) -> None:
        """Neither the block nor what it refuses says it."""
        assert "geheim" not in repr(TextModel(model="https://models.test/v1#small", key="geheim"))
        with pytest.raises(ValidationError, match="REPLI_TEXT_MODEL_KEY has blanks") as error:
            TextModel(model="https://models.test/v1#small", key="geheim und mehr")
        assert "geheim" not in str(error.value)

    @pytest.mark.parametrize("model", ["https://models.test/v1", "https://me:hush@models.test/v1#small"])
    def test_an_address_that_is_none_is_refused(self, model: str) -> None:
        """With what to write, and without the password."""
        with pytest.raises(ValidationError, match="write https://HOST/v1#MODEL") as error:
            TextModel(model=model)
        assert "hush" not in str(error.value)
