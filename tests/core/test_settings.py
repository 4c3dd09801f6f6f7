"""The model's settings: from the environment, checked, and never repeating a secret."""

import subprocess
import sys
from pathlib import Path

import pytest

from av2t_core.errors import ConfigError
from av2t_core.settings import ModelSettings


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in ModelSettings.model_fields.values():
        monkeypatch.delenv(str(field.validation_alias), raising=False)


def test_defaults_environment_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ModelSettings.load().models_dir == Path(".av2t/models")
    monkeypatch.setenv("AV2T_MODEL", "")
    assert ModelSettings.load().model == "small"
    monkeypatch.setenv("AV2T_MODEL", "sam2-l")
    assert ModelSettings.load(model=None).model == "sam2-l"
    assert ModelSettings.load(model="sam1-h").model == "sam1-h"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("AV2T_DEVICE", "gpu", "is 'gpu': it must be auto, cpu, cuda or cuda:N"),
        ("AV2T_MODEL", "../tiny", "lower-case"),
        ("AV2T_PRECISION", "fp8", "'fp32'"),
        ("AV2T_LEAST_SCORE", "2", "less than or equal to 1"),
        ("AV2T_MODELS_URL", "/mnt/models", "file:///mnt/models"),
        ("AV2T_MODELS_URL", "simplecache::s3://bucket", "s3://bucket/prefix"),
    ],
)
def test_bad_value_is_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as error:
        ModelSettings.load()
    assert str(error.value).startswith(name)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bad_option_is_named_by_its_variable() -> None:
    with pytest.raises(ConfigError, match="AV2T_DEVICE is 'gpu'"):
        ModelSettings.load(device="gpu")


@pytest.mark.parametrize("url", ["s3://somebody:hunter2@bucket", "s3://somebody:hunt/er2@bucket/of/us"])
def test_no_password_is_in_the_address_of_the_model_store(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("AV2T_MODELS_URL", url)
    with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY") as error:
        ModelSettings.load()
    assert "hunt" not in str(error.value)


def test_a_user_without_a_password_may_be_in_it() -> None:
    settings = ModelSettings.load(models_url="abfs://container@account.dfs.core.windows.net/models/")
    assert settings.models_url == "abfs://container@account.dfs.core.windows.net/models"
    assert settings.store is not None
    assert ModelSettings.load().store is None


def test_they_need_neither_the_worker_nor_torch() -> None:
    code = (
        "import sys, av2t_core.settings; sys.exit(bool({'worker', 'backend', 'torch', 'redis'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
