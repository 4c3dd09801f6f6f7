"""The model store as the commands use it: brought here before a command begins, and given what a command has made."""

from functools import partial
from typing import Any, TypeVar

from av2t.console import note, progress_bar
from av2t.remedies import told
from av2t_core.errors import StoreAwayError, WeightsError
from av2t_core.files import Progress
from av2t_core.settings import ModelSettings
from av2t_core.versions.store import fetch
from av2t_core.versions.version import Version, resolve

S = TypeVar("S", bound=ModelSettings)

BARS: Progress = partial(progress_bar, unit="B")


def load_settings(kind: type[S], *, run_model: bool = False, **options: Any) -> S:
    """The settings, with all versions of the model store here, and with `run_model` the weights of its own model, too.

    A store that does not answer is only noted: what is here can be used without it. ConfigError, WeightsError.
    """
    settings = kind.load(**options)
    try:
        settings.mirror().refresh()
        if run_model and settings.store:
            fetch(resolve(settings.model, settings.models_dir), BARS)
    except StoreAwayError as error:
        note(f"note: {told(error)}; meanwhile what is here is used")
    return settings


def share(version: Version, settings: ModelSettings) -> None:
    """Have it in the model store, if there is one. WeightsError: it could not be brought there."""
    if settings.store is None:
        return
    try:
        settings.store.push(version, BARS)
    except WeightsError as error:
        raise WeightsError(
            f"{version.name} is here, but {told(error)}; `av2t models push {version.name}` tries again"
        ) from None
    note(f"{version.name} is in the model store {settings.store.url}")
