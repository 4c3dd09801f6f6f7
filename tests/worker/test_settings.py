"""The service's settings: from the environment, checked, and never repeating a secret."""

from pathlib import Path

import pytest

from av2t_core.errors import ConfigError
from worker.settings import Settings

NAMES = [str(field.validation_alias) for field in Settings.model_fields.values()]


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_defaults_are_those_of_one_machine() -> None:
    settings = Settings.load()
    assert settings.redis_url == "redis://127.0.0.1:6379/0"
    assert (settings.backend_host, settings.backend_port) == ("127.0.0.1", 9090)
    assert settings.clips_dir == Path(".av2t/clips")


def test_environment_then_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AV2T_BACKEND_PORT", "9191")
    assert Settings.load().backend_port == 9191
    assert Settings.load(backend_port=9292, backend_host=None).backend_port == 9292


def test_trailing_slash_goes() -> None:
    assert Settings.load(label_studio_url="http://studio:8080/").label_studio_url == "http://studio:8080"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("AV2T_BACKEND_PORT", "high", "'high'"),
        ("AV2T_BACKEND_PORT", "70000", "65535"),
        ("AV2T_MAX_CLIP_MB", "0", "greater"),
        ("LABEL_STUDIO_URL", "studio:8080", "http://127.0.0.1:8080"),
        ("REDIS_URL", "localhost", "redis://"),
        ("AV2T_MODELS_REFRESH", "0", "greater"),
    ],
)
def test_bad_value_is_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as error:
        Settings.load()
    assert str(error.value).startswith(name)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "given",
    [
        {"AV2T_BACKEND_USER": "studio"},
        {"AV2T_BACKEND_PASSWORD": "hunter2"},
        {"AV2T_BACKEND_USER": "a:b", "AV2T_BACKEND_PASSWORD": "hunter2"},
        {"AV2T_BACKEND_USER": "a", "AV2T_BACKEND_PASSWORD": "hunter2\u00fc"},
    ],
)
def test_a_user_and_a_password_go_together(monkeypatch: pytest.MonkeyPatch, given: dict[str, str]) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="AV2T_BACKEND_USER") as error:
        Settings.load()
    assert "hunter2" not in str(error.value)


def test_secrets_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "hunter2")
    monkeypatch.setenv("REDIS_URL", "redis://:hunter3@redis/0")
    settings = Settings.load()
    assert "hunter" not in repr(settings)
    assert settings.require_api_key() == "hunter2"
    monkeypatch.setenv("REDIS_URL", "http://:hunter3@redis/0")
    with pytest.raises(ConfigError) as error:
        Settings.load()
    assert "hunter" not in str(error.value)


@pytest.mark.parametrize("user", ["admin:hunter2", "hunter2", ":hunter2", "a@b:hunter2"])
def test_no_password_is_in_the_address_of_label_studio(monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", f"https://{user}@studio.example")
    with pytest.raises(ConfigError, match="goes into LABEL_STUDIO_API_KEY") as error:
        Settings.load()
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("url", ["http://[", "http://", "http://a b", "http://studio:port", "http://studio:99999"])
def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", url)
    with pytest.raises(ConfigError, match="LABEL_STUDIO_URL: it must be an address such as"):
        Settings.load()


def test_key_is_asked_for_by_name() -> None:
    with pytest.raises(ConfigError, match="LABEL_STUDIO_API_KEY is not set"):
        Settings.load().require_api_key()


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())
