"""Every setting of this project, read from the environment in this one place."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from av2t_core.errors import ConfigError, WeightsError
from av2t_core.versions.mirror import Mirror
from av2t_core.versions.store import Store
from av2t_core.versions.version import check_name

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")

EMBEDDED_REDIS = Path("redis/url")
"""The file below the data folder that tells, while `av2t up` runs, where its own Redis is."""


def web_address(value: str) -> str:
    """It without a slash at its end. ValueError: it is no http address with a host, or it holds a user or a password;
    the message does not repeat it."""
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 0) >= 0
    except ValueError:
        usable = False
    if not usable or not value.isprintable() or " " in value:
        raise ValueError("it must be an address such as http://127.0.0.1:8080")
    if "@" in parts.netloc:
        raise ValueError(
            "it must hold no user and no password, which would be in logs and on pages; Label Studio's key goes into"
            " LABEL_STUDIO_API_KEY"
        )
    return value.rstrip("/")


def _redis_url(value: str) -> str:
    if urlsplit(value).scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("it must start with redis://, rediss:// or unix://")
    return value


def _device(value: str) -> str:
    if not _DEVICE.fullmatch(value):
        raise ValueError("it must be auto, cpu, cuda or cuda:N")
    return value


def _model(value: str) -> str:
    try:
        return check_name(value)
    except WeightsError:
        raise ValueError("it must be a model version's name: lower-case letters, digits, '.', '_' and '-'") from None


def _models_url(value: str) -> str:
    if not re.match(r"[a-z0-9+.-]+://[^:]", value):
        raise ValueError("it must be a URL such as file:///mnt/models or s3://bucket/prefix")
    if re.search(r"://.*:.*@", value):
        raise ValueError(
            "it must hold no password, which would be in logs; fsspec and the storage's own package read theirs from"
            " variables of their own, such as FSSPEC_SFTP_PASSWORD and AWS_SECRET_ACCESS_KEY"
        )
    return value.rstrip("/")


def _names(value: object) -> object:
    return {name.strip().lower() for name in value.split(",") if name.strip()} if isinstance(value, str) else value


def _networks(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return tuple(ip_network(each.strip()) for each in value.split(",") if each.strip())
    except ValueError as error:
        raise ValueError(f"it must be networks such as 10.0.0.0/8, separated by commas ({error})") from None


def _variable(name: str, default: Any, description: str, **constraints: Any) -> Any:
    return Field(default, validation_alias=name, description=description, **constraints)


class Settings(BaseSettings):
    """What can be set from outside. `load` is how a command makes one; tests construct their own."""

    # An empty variable is what compose passes on for one that is not set.
    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, populate_by_name=True, extra="forbid")

    label_studio_url: Annotated[str, AfterValidator(web_address)] = _variable(
        "LABEL_STUDIO_URL", "http://127.0.0.1:8080", "Where Label Studio is, as the worker reaches it."
    )
    label_studio_api_key: SecretStr | None = _variable(
        "LABEL_STUDIO_API_KEY", None, "A personal access token or a legacy token of Label Studio. The worker needs it."
    )
    # Out of the repr, for the URL may hold a password.
    redis_url: Annotated[str, AfterValidator(_redis_url)] = _variable(
        "REDIS_URL",
        "redis://127.0.0.1:6379/0",
        "The Redis that holds the queue; where it is not set and `av2t up` runs in AV2T_DATA_DIR, that one's.",
        repr=False,
    )
    model: Annotated[str, AfterValidator(_model)] = _variable(
        "AV2T_MODEL", "tiny", "The preset or the model version that pre-annotates."
    )
    device: Annotated[str, AfterValidator(_device)] = _variable(
        "AV2T_DEVICE", "auto", "Where the model runs: auto, cpu, cuda or cuda:N."
    )
    precision: Literal["auto", "fp32", "bf16"] = _variable(
        "AV2T_PRECISION", "auto", "What the model computes in: fp32, bf16, or auto, which is bf16 where that is faster."
    )
    log_format: Literal["text", "json"] = _variable(
        "AV2T_LOG_FORMAT", "text", "How worker and backend log: text, for people, or json, a line of it for each thing."
    )
    data_dir: Path = _variable("AV2T_DATA_DIR", Path(".av2t"), "The folder for model versions, logs and demo data.")
    models_url: Annotated[str, AfterValidator(_models_url)] | None = _variable(
        "AV2T_MODELS_URL",
        None,
        "The model store that several machines share, by any URL that fsspec opens; none: AV2T_DATA_DIR holds all.",
    )
    models_refresh: int = _variable(
        "AV2T_MODELS_REFRESH", 30, "How often the backend looks into the model store, in seconds.", ge=1
    )
    backend_host: str = _variable("AV2T_BACKEND_HOST", "127.0.0.1", "The address that the backend listens on.")
    backend_port: int = _variable("AV2T_BACKEND_PORT", 9090, "The port that the backend listens on.", ge=1, le=65535)
    backend_user: str | None = _variable(
        "AV2T_BACKEND_USER", None, "A name that the backend asks for, by HTTP's basic authentication; with a password."
    )
    backend_password: SecretStr | None = _variable("AV2T_BACKEND_PASSWORD", None, "The password that goes with it.")
    backend_hosts: Annotated[frozenset[str], NoDecode, BeforeValidator(_names)] = _variable(
        "AV2T_BACKEND_HOSTS",
        "",
        "The names by which the backend is called, with commas between them, or * for any; none: with a password any,"
        " and without one addresses, this machine's name and names that no public DNS has, such as those of compose.",
        validate_default=True,
    )
    keyframes_per_second: int = _variable(
        "AV2T_KEYFRAMES_PER_SECOND",
        1,
        "How many keyframes of each second of a clip get masks; of several, each has the second of sound around it.",
        ge=1,
        le=25,
    )
    max_keyframes: int = _variable(
        "AV2T_MAX_KEYFRAMES",
        100,
        "The most keyframes of a clip, for Label Studio's page slows down beyond; a longer one has them spread evenly.",
        ge=1,
    )
    cache_mb: int = _variable(
        "AV2T_CACHE_MB", 4096, "How much of the clips that were fetched is kept on disk, in MB; 0 is nothing.", ge=0
    )
    reconcile_minutes: int = _variable(
        "AV2T_RECONCILE_MINUTES",
        10,
        "How often the workers look through the connected projects for tasks of which no event told; 0 is never.",
        ge=0,
    )
    repredict: Literal["always", "ask", "never"] = _variable(
        "AV2T_REPREDICT",
        "always",
        "Whether tasks that nobody has touched are predicted anew by a project's new model version: always, never, or"
        " ask, which is when a person says so.",
    )
    silence_dbfs: float = _variable(
        "AV2T_SILENCE_DBFS",
        -60.0,
        "How loud a second of sound is at least (RMS, in decibels below full scale) for the model to look at it.",
        ge=-120,
        le=0,
    )
    least_score: float = _variable(
        "AV2T_LEAST_SCORE",
        0.0,
        "How probable it is at least that a mask is right; what is less so is left out.",
        ge=0,
        le=1,
    )
    hang_seconds: int = _variable(
        "AV2T_HANG_SECONDS",
        300,
        "How long a job may give no sign of life before its process is ended: longer than one keyframe ever takes.",
        ge=5,
    )
    memory_mb: int | None = _variable(
        "AV2T_MEMORY_MB",
        None,
        "How much memory the model's process may hold before it is ended, in MB; none: 90 % of the container's, or of"
        " the machine's.",
        ge=1,
    )
    max_clip_mb: int = _variable("AV2T_MAX_CLIP_MB", 2048, "The largest clip that the worker fetches, in MB.", ge=1)
    clip_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_networks)] = _variable(
        "AV2T_CLIP_NETWORKS",
        "",
        "The private networks that clips may come from, beside Label Studio and the public internet, separated by"
        " commas, as in 10.0.0.0/8,192.168.1.20.",
        validate_default=True,
    )
    annotations_by: Literal["ground-truth", "newest"] = _variable(
        "AV2T_ANNOTATION",
        "ground-truth",
        "Which of a task's annotations a training learns from: newest, or the one marked as ground-truth, and the"
        " newest where none is.",
    )
    boxes_are_masks: bool = _variable(
        "AV2T_BOX_HINTS",
        False,
        "Whether a training takes a rectangle that no mask lies in for a mask of its whole area: True or False, which"
        " leaves out clips that have one.",
    )

    @model_validator(mode="after")
    def _check_basic_authentication(self) -> Self:
        if (self.backend_user is None) != (self.backend_password is None):
            raise ValueError("AV2T_BACKEND_USER and AV2T_BACKEND_PASSWORD go together: set both or neither")
        if self.backend_user is not None and self.backend_password is not None:
            if ":" in self.backend_user:
                raise ValueError("AV2T_BACKEND_USER: a name in basic authentication has no colon")
            if not (self.backend_user + self.backend_password.get_secret_value()).isascii():
                raise ValueError(
                    "AV2T_BACKEND_USER and AV2T_BACKEND_PASSWORD: use ASCII alone, for Label Studio sends all else in"
                    " another encoding than browsers do"
                )
        return self

    @property
    def models_dir(self) -> Path:
        """Where model versions are kept, beside the ones that ship with the package."""
        return self.data_dir / "models"

    @property
    def store(self) -> Store | None:
        """Of which `models_dir` is the mirror."""
        return Store(self.models_url) if self.models_url else None

    def mirror(self) -> Mirror:
        return Mirror(self.models_dir, self.store)

    @property
    def clips_dir(self) -> Path:
        """Where fetched clips are kept."""
        return self.data_dir / "clips"

    @classmethod
    def load(cls, **options: Any) -> Self:
        """The environment's settings; `options` (a command's options, by field name) go before them unless None.

        Raises ConfigError with a sentence that names the variable, its value and what it must be.
        """
        given = {name: value for name, value in options.items() if value is not None}
        try:
            settings = cls(**given)
            embedded = settings.data_dir / EMBEDDED_REDIS
            if "redis_url" not in settings.model_fields_set and embedded.is_file():
                settings = cls(**given, redis_url=embedded.read_text())
        except ValidationError as error:
            raise ConfigError(_sentence(error)) from None
        except OSError as error:
            raise ConfigError(f"{error.filename} cannot be read ({error.strerror}); set REDIS_URL") from None
        return settings

    @property
    def secret(self) -> str:
        """What no log may repeat: the Label Studio token in clear, "" where there is none."""
        return self.label_studio_api_key.get_secret_value() if self.label_studio_api_key else ""

    def require_api_key(self) -> str:
        """The Label Studio token in clear, for the one client that sends it. ConfigError where there is none."""
        if self.label_studio_api_key is None:
            raise ConfigError(
                "LABEL_STUDIO_API_KEY is not set: copy a token from Label Studio's Account & Settings page into it"
            )
        return self.label_studio_api_key.get_secret_value()


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    if not first["loc"]:  # of several settings together, whose names the sentence has
        return first["msg"].removeprefix("Value error, ")
    field = str(first["loc"][0])
    name = next((str(f.validation_alias) for n, f in Settings.model_fields.items() if n == field), field)
    reason = first["msg"].removeprefix("Value error, ")
    # A value that may hold a secret is never repeated.
    secret = {"LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY", "REDIS_URL", "AV2T_MODELS_URL", "AV2T_BACKEND_PASSWORD"}
    value = "" if name in secret else f" is {first['input']!r}"
    return f"{name}{value}: {reason}"
