"""The settings of the service: those of the model, and what the backend, the queue and the worker need beside them."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import NoDecode

from av2t_core.errors import ConfigError
from av2t_core.settings import ModelSettings, matching

EMBEDDED_REDIS = Path("redis/url")
"""The file below the data folder that holds the URL of `av2t up`'s own Redis while it runs."""

_NOTHING: Any = Field(default="", validate_default=True)  # an empty list, as the environment writes it
_RedisUrl = Annotated[str, matching("(?i:rediss?|unix):.*", "it must start with redis://, rediss:// or unix://")]


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


def _names(value: object) -> object:
    return {name.strip().lower() for name in value.split(",") if name.strip()} if isinstance(value, str) else value


def _networks(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return tuple(ip_network(each.strip()) for each in value.split(",") if each.strip())
    except ValueError as error:
        raise ValueError(f"it must be networks such as 10.0.0.0/8, separated by commas ({error})") from None


class Settings(ModelSettings):
    """What can be set from outside. Without REDIS_URL, `load` takes the Redis that `av2t up` runs in the data folder,
    if it runs."""

    label_studio_url: Annotated[str, AfterValidator(web_address)] = Field(
        default="http://127.0.0.1:8080", validation_alias="LABEL_STUDIO_URL", repr=False
    )
    """Where Label Studio is, as the worker reaches it."""
    label_studio_api_key: SecretStr | None = Field(default=None, validation_alias="LABEL_STUDIO_API_KEY", repr=False)
    """A personal access token or a legacy token of Label Studio. The worker needs it."""
    redis_url: _RedisUrl = Field(default="redis://127.0.0.1:6379/0", validation_alias="REDIS_URL", repr=False)
    """The Redis that holds the queue; where it is not set and `av2t up` runs in AV2T_DATA_DIR, that one's."""
    log_format: Literal["text", "json"] = "text"
    """How worker and backend log: text, for people, or json, a line of it for each thing."""
    models_refresh: int = Field(default=30, ge=1)
    """How often the backend looks into the model store, in seconds."""
    backend_host: str = "127.0.0.1"
    """The address that the backend listens on."""
    backend_port: int = Field(default=9090, ge=1, le=65535)
    """The port that the backend listens on."""
    backend_user: str | None = None
    """A name that the backend asks for, by HTTP's basic authentication; with a password."""
    backend_password: SecretStr | None = Field(default=None, repr=False)
    """The password that goes with it."""
    backend_hosts: Annotated[frozenset[str], NoDecode, BeforeValidator(_names)] = _NOTHING
    """The names by which the backend is called, with commas between them, or * for any; none: with a password any,
    and without one addresses, this machine's name and names that no public DNS has, such as those of compose."""
    cache_mb: int = Field(default=4096, ge=0)
    """How much of the clips that were fetched is kept on disk, in MB; 0 is nothing."""
    reconcile_minutes: int = Field(default=10, ge=0)
    """How often the workers look through the connected projects for tasks of which no event told; 0 is never."""
    repredict: Literal["always", "ask", "never"] = "always"
    """Whether tasks that nobody has touched are predicted anew by a project's new model version: always, never, or
    ask, which is when a person says so."""
    hang_seconds: int = Field(default=300, ge=5)
    """How long a job may give no sign of life before its process is ended: longer than one keyframe ever takes."""
    memory_mb: int | None = Field(default=None, ge=1)
    """How much memory the model's process may hold before it is ended, in MB; none: 90 % of the container's, or of
    the machine's."""
    max_clip_mb: int = Field(default=2048, ge=1)
    """The largest clip that the worker fetches, in MB."""
    clip_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_networks)] = _NOTHING
    """The private networks that clips may come from, beside Label Studio and the public internet, separated by
    commas, as in 10.0.0.0/8,192.168.1.20."""
    annotations_by: Literal["ground-truth", "newest"] = Field(
        default="ground-truth", validation_alias="AV2T_ANNOTATION"
    )
    """Which of a task's annotations a training learns from: newest, or the one marked as ground-truth, and the newest
    where none is."""
    boxes_are_masks: bool = Field(default=False, validation_alias="AV2T_BOX_HINTS")
    """Whether a training takes a rectangle that no mask lies in for a mask of its whole area: True or False, which
    leaves out clips that have one."""

    @model_validator(mode="after")
    def _check_basic_authentication(self) -> Self:
        user, password = self.backend_user, self.backend_password
        if (user is None) != (password is None):
            raise ValueError("AV2T_BACKEND_USER and AV2T_BACKEND_PASSWORD go together: set both or neither")
        if user and ":" in user:
            raise ValueError("AV2T_BACKEND_USER: a name in basic authentication has no colon")
        if password is not None and not f"{user}{password.get_secret_value()}".isascii():
            raise ValueError(
                "AV2T_BACKEND_USER and AV2T_BACKEND_PASSWORD: use ASCII alone, for Label Studio sends all else in"
                " another encoding than browsers do"
            )
        return self

    @classmethod
    def load(cls, **options: Any) -> Self:
        settings = super().load(**options)
        embedded = settings.data_dir / EMBEDDED_REDIS
        if "redis_url" in settings.model_fields_set or not embedded.is_file():
            return settings
        try:
            url = embedded.read_text()
        except OSError as error:
            raise ConfigError(f"{error.filename} cannot be read ({error.strerror}); set REDIS_URL") from None
        return super().load(**options | {"redis_url": url})

    @property
    def clips_dir(self) -> Path:
        """The cache of fetched clips."""
        return self.data_dir / "clips"

    @property
    def secret(self) -> str:
        """What no log may repeat: the Label Studio token in clear, "" where there is none."""
        return self.label_studio_api_key.get_secret_value() if self.label_studio_api_key else ""

    def require_api_key(self) -> str:
        """The Label Studio token in clear, for the one client that sends it. ConfigError where there is none."""
        if not self.secret:
            raise ConfigError(
                "LABEL_STUDIO_API_KEY is not set: copy a token from Label Studio's Account & Settings page into it"
            )
        return self.secret
