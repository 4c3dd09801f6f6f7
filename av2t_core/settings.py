"""What can be set from outside about a model and what it predicts; the only module here that reads the environment."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AliasGenerator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from av2t_core.errors import ConfigError, WeightsError
from av2t_core.versions.mirror import Mirror
from av2t_core.versions.names import check_name
from av2t_core.versions.store import Store


def matching(pattern: str, reason: str) -> AfterValidator:
    """Refuses text that does not match from beginning to end; `reason` says what it must be."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(reason)
        return value

    return AfterValidator(check)


def _version_name(value: str) -> str:
    try:
        return check_name(value)
    except WeightsError:
        raise ValueError("it must be a model version's name: lower-case letters, digits, '.', '_' and '-'") from None


def _models_url(value: str) -> str:
    if re.search(r"://.*:.*@", value):
        raise ValueError(
            "it must hold no password, which would be in logs; fsspec and the storage's own package read theirs from"
            " variables of their own, such as FSSPEC_SFTP_PASSWORD and AWS_SECRET_ACCESS_KEY"
        )
    return value.rstrip("/")


_ModelsUrl = Annotated[
    str,
    matching(r"[a-z0-9+.-]+://[^:].*", "it must be a URL such as file:///mnt/models or s3://bucket/prefix"),
    AfterValidator(_models_url),
]


class ModelSettings(BaseSettings):
    """The settings of whatever needs no queue. `load` is how a command makes them; tests construct their own.

    The environment variable of a field is AV2T_ and its name, unless it says another. With `repr=False` no message
    repeats its value, which may hold a secret.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        env_ignore_empty=True,  # an empty variable is what compose passes on for one that is not set
        populate_by_name=True,
        extra="forbid",
        use_attribute_docstrings=True,
        alias_generator=AliasGenerator(validation_alias=lambda name: f"AV2T_{name.upper()}"),
    )

    model: Annotated[str, AfterValidator(_version_name)] = "small"
    """The preset or the model version that pre-annotates."""
    device: Annotated[str, matching(r"auto|cpu|cuda(:\d+)?", "it must be auto, cpu, cuda or cuda:N")] = "auto"
    """Where the model runs: auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What the model computes in: fp32, bf16, or auto, which is bf16 where that is faster."""
    data_dir: Path = Path(".av2t")
    """The folder for model versions, logs and demo data."""
    models_url: _ModelsUrl | None = Field(default=None, repr=False)
    """The model store that several machines share, by any URL that fsspec opens; none: AV2T_DATA_DIR holds all."""
    keyframes_per_second: int = Field(default=1, ge=1, le=25)
    """How many keyframes of each second of a clip get masks; of several, each has the second of sound around it."""
    max_keyframes: int = Field(default=100, ge=1)
    """The most keyframes of a clip, for Label Studio's page slows down beyond; a longer one has them spread evenly."""
    silence_dbfs: float = Field(default=-60.0, ge=-120, le=0)
    """How loud a second of sound is at least (RMS, in decibels below full scale) for the model to look at it."""
    least_score: float = Field(default=0.0, ge=0, le=1)
    """How probable it is at least that a mask is right; what is less so is left out."""

    @property
    def models_dir(self) -> Path:
        """The model versions that do not ship with the package."""
        return self.data_dir / "models"

    @property
    def store(self) -> Store | None:
        """The model store of which `models_dir` is the mirror."""
        return Store(self.models_url) if self.models_url else None

    def mirror(self) -> Mirror:
        return Mirror(self.models_dir, self.store)

    @classmethod
    def load(cls, **options: Any) -> Self:
        """The environment's settings; `options` (a command's options, by field name) override them unless None.

        Raises ConfigError with a sentence that names the variable, its value and what it must be.
        """
        try:
            return cls(**{name: value for name, value in options.items() if value is not None})
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
        reason = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:  # about several settings, which the reason names
            raise ConfigError(reason)
        named = str(first["loc"][0])  # by its variable or, as an option, by its field
        field = next(f for name, f in cls.model_fields.items() if named in (name, f.validation_alias))
        value = f" is {first['input']!r}" if field.repr else ""
        raise ConfigError(f"{field.validation_alias}{value}: {reason}")
