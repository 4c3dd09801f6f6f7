"""What several commands take: options, how their values are read, the settings, and the model store."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from av2t.console import note, progress_bar
from av2t.remedies import told
from av2t.signature import Arg
from av2t_core.errors import StoreAwayError, WeightsError
from av2t_core.files import Progress
from av2t_core.settings import ModelSettings
from av2t_core.versions.store import fetch
from av2t_core.versions.version import Version, resolve

if TYPE_CHECKING:
    from av2t_core.prediction.predictor import Predictor

T = TypeVar("T", int, float)
S = TypeVar("S", bound=ModelSettings)

BARS: Progress = partial(progress_bar, unit="B")

DEMO_CLIPS = Path(__file__).with_name("demo_clips")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model that a command runs."""

    model: Annotated[str | None, Arg("preset or model version (AV2T_MODEL; default: small)", "NAME")] = None
    device: Annotated[str | None, Arg("auto, cpu, cuda or cuda:N (AV2T_DEVICE; default: auto)")] = None
    precision: Annotated[str | None, Arg("auto, fp32 or bf16 (AV2T_PRECISION; default: auto)")] = None

    def settings(self, *, run_model: bool) -> ModelSettings:
        return load_settings(ModelSettings, run_model=run_model, **asdict(self))


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


def load_predictor(settings: ModelSettings, *, random: bool = False, **options: Any) -> "Predictor":
    """The settings' model; with `random` the preset of its name, whose weights are drawn. `options` are Predictor's."""
    if sys.stderr.isatty():
        note(f"loading the model {settings.model}")
    from av2t_core.prediction.predictor import Predictor  # seconds: it brings torch

    options = {"precision": settings.precision, **options}
    if random:
        return Predictor.random(settings.model, settings.device, **options)
    return Predictor.load(settings.model, settings.device, models_dir=settings.models_dir, **options)


def reading(kind: type[T], holds: Callable[[T], bool], must_be: str) -> Callable[[str], T]:
    """What makes a value of the text of an option, and refuses one that does not hold."""

    def read(text: str) -> T:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not holds(value):
            raise argparse.ArgumentTypeError(f"{text!r} {must_be}")
        return value

    return read


def names(text: str) -> tuple[str, ...]:
    """What commas separate, each once."""
    found = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name; write them as dog,violin")
    return found


Names = Annotated[tuple[str, ...], names]
Count = Annotated[int, reading(int, lambda value: value >= 1, "must be a whole number, 1 or more")]
Number = Annotated[float, reading(float, lambda value: 0 <= value < inf, "must be a number, 0 or more")]
Positive = Annotated[float, reading(float, lambda value: 0 < value < inf, "must be a number above 0")]
Port = Annotated[int, reading(int, lambda value: 1 <= value <= 65535, "is not a port: it must be between 1 and 65535")]
Json = Annotated[bool, Arg("print JSON")]
