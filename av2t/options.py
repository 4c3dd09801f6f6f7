"""Options that several commands have, and how their values are read."""

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from av2t.console import note
from av2t.signature import Arg
from av2t.store import load_settings
from av2t_core.settings import ModelSettings

if TYPE_CHECKING:
    from av2t_core.prediction.predictor import Predictor

DEMO_CLIPS = Path(__file__).with_name("demo_clips")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model that a command runs."""

    model: Annotated[str | None, Arg("preset or model version (AV2T_MODEL; default: tiny)", "NAME")] = None
    device: Annotated[str | None, Arg("auto, cpu, cuda or cuda:N (AV2T_DEVICE; default: auto)")] = None
    precision: Annotated[str | None, Arg("auto, fp32 or bf16 (AV2T_PRECISION; default: auto)")] = None

    def settings(self, *, run_model: bool) -> ModelSettings:
        return load_settings(ModelSettings, run_model=run_model, **asdict(self))


def load_predictor(settings: ModelSettings, *, random: bool = False, **options: Any) -> "Predictor":
    """The settings' model; with `random` the preset of its name, whose weights are drawn. `options` are Predictor's."""
    if sys.stderr.isatty():
        note(f"loading the model {settings.model}")
    from av2t_core.prediction.predictor import Predictor  # seconds: it brings torch

    options = {"precision": settings.precision, **options}
    if random:
        return Predictor.random(settings.model, settings.device, **options)
    return Predictor.load(settings.model, settings.device, models_dir=settings.models_dir, **options)


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, 1 or more")
    return int(text)


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} must be a number, 0 or more")
    return value


def positive(text: str) -> float:
    if not (value := number(text)):
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0")
    return value


def port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: it must be between 1 and 65535")
    return int(text)


Count = Annotated[int, count]
Number = Annotated[float, number]
Positive = Annotated[float, positive]
Port = Annotated[int, port]
Json = Annotated[bool, Arg("print JSON")]
