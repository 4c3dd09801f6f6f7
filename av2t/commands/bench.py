"""`av2t bench`: how fast a model version is, and how much memory it takes."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from av2t.console import note, progress_bar
from av2t.options import DEMO_CLIPS, add_model, count
from av2t_core.media.clip import Clip
from av2t_core.model.presets import check_preset
from av2t_core.versions.version import resolve
from worker.settings import Settings

if TYPE_CHECKING:
    from av2t_core.evaluation.benchmark import Cost, Memory, Speed
    from av2t_core.prediction.predictor import Predictor

DEMO_CLIP = DEMO_CLIPS / "violin-owl.mp4"

DESCRIPTION = """\
Measure how fast a model version is, and how much memory it takes.

VIDEO is played again and again until --keyframes of it are masked; its silent seconds are left out, for the model does
not look at them. One batch, or on a GPU as many keyframes, goes before and is not counted. The whole is what a user
waits for, from the file to masks of its size, without loading the model. The stages are measured in a pass of their
own, one after the other.

--plain adds a run in fp32, one keyframe after the other, without decoding ahead and with every attention matrix spelled
out. --fine-tune adds what /train does with the model once the clips are fetched. `av2t evaluate` measures how right a
model version is."""

EXAMPLE = """examples:
  av2t bench --model tiny --plain
  av2t bench --model sam2-l --random-weights --keyframes 4    without its weights, on a small machine"""

ROWS = {
    "frames_per_second": {
        "decoding": "decoding",
        "clip": "CLIP",
        "clap": "CLAP",
        "beit3": "BEiT-3",
        "sam_image_encoder": "SAM's image encoder",
        "mask_decoder": "mask decoder",
        "native_size": "masks to native size",
        "rest": "all else",
        "whole": "the whole",
    },
    "memory_mb": {
        "host_peak": "host, peak",
        "host_mapped": "of it mapped files",
        "device_peak": "GPU, peak",
    },
}
"""What the text shows, by the names of the JSON."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.epilog = EXAMPLE
    parser.add_argument("video", metavar="VIDEO", type=Path, nargs="?", default=DEMO_CLIP, help="default: a demo clip")
    add_model(parser)
    parser.add_argument("--plain", action="store_true", help="run it the plain way, too, and print the ratio")
    parser.add_argument("--fine-tune", action="store_true", help="measure how fast it learns, too, as /train has it do")
    parser.add_argument("--random-weights", action="store_true", help="of the preset NAME; its masks mean nothing")
    parser.add_argument("--keyframes", metavar="N", type=count, default=32, help="how many (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def run(args: argparse.Namespace) -> int:
    # The model name and the video come first: a mistake in one of them should not wait for the model to load.
    settings = Settings.load(model=args.model, device=args.device, precision=args.precision)
    if args.random_weights:
        check_preset(settings.model)
    else:
        resolve(settings.model, settings.models_dir).check()
    with Clip(args.video) as clip:
        height, width, _ = next(clip.windows()).image.shape
    from av2t_core.evaluation.benchmark import loading, machine, measure, measure_plain, steps

    numbers: dict[str, Any] = {"video": str(args.video), "size": [width, height], "keyframes": args.keyframes}
    ways = {"fast": measure} | ({"plain": measure_plain} if args.plain else {})
    for way, measured in ways.items():
        if sys.stderr.isatty():
            note(f"loading the model {settings.model}")
        predictor, cost = loading(partial(_load, settings, random=args.random_weights, plain=way == "plain"))
        device = predictor.loaded.device
        with progress_bar(f"{way} run", steps(predictor, args.keyframes), "keyframes") as bar:
            speed = measured(predictor, args.video, args.keyframes, bar.update)
        numbers |= {"model_version": predictor.model_version, "device": str(device), "machine": machine(device)}
        numbers.setdefault("loading", _loading(cost))  # a second time, memory and files are at hand already
        numbers[way] = _numbers(predictor, speed)
        if args.fine_tune and way == "fast":
            numbers["fine_tuning"] = _fine_tuning(predictor, args)
        del predictor  # before the next one is loaded
    if args.plain:
        fast, plain = (numbers[way]["frames_per_second"]["whole"] for way in ways)
        numbers["ratio"] = _rounded(fast / plain)
    print(json.dumps(numbers) if args.json else _text(numbers, list(ways)))
    return 0


def _load(settings: Settings, *, random: bool, plain: bool) -> "Predictor":
    from av2t_core.prediction.predictor import Predictor

    precision, batch_size = ("fp32", 1) if plain else (settings.precision, None)
    if random:
        return Predictor.random(settings.model, settings.device, precision=precision, batch_size=batch_size)
    return Predictor.load(
        settings.model, settings.device, models_dir=settings.models_dir, precision=precision, batch_size=batch_size
    )


def _loading(cost: "Cost") -> dict[str, float]:
    return {
        "seconds": _rounded(cost.seconds),
        "peak_mb": round(cost.peak / 1e6),
        "weights_mb": round(cost.weights / 1e6),
    }


def _fine_tuning(predictor: "Predictor", args: argparse.Namespace) -> dict[str, Any]:
    from av2t_core.evaluation.benchmark import measure_fine_tuning

    with progress_bar("fine-tuning", None, "steps") as bar:

        def show(step: int, steps: int) -> None:
            bar.total = steps
            bar.update(step - bar.n)

        learning = measure_fine_tuning(predictor, args.video, args.keyframes, show)
    rate = learning.keyframes / learning.seconds
    return {"frames_per_second": _rounded(rate), "memory_mb": _megabytes(learning.memory)}


def _megabytes(memory: "Memory") -> dict[str, int | None]:
    each = {"host_peak": memory.host, "host_mapped": memory.mapped, "device_peak": memory.device}
    return {what: None if size is None else round(size / 1e6) for what, size in each.items()}


def _numbers(predictor: "Predictor", speed: "Speed") -> dict[str, Any]:
    seconds = {**speed.stages, "whole": speed.seconds}
    return {
        "precision": predictor.loaded.precision,
        "batch_size": predictor.batch_size,
        "frames_per_second": {stage: _rounded(speed.keyframes / taken) for stage, taken in seconds.items()},
        "memory_mb": _megabytes(speed.memory),
    }


def _rounded(value: float) -> float:
    """To four digits, which is more than two runs have in common."""
    return float(f"{value:.4g}")


def _text(numbers: Mapping[str, Any], ways: Sequence[str]) -> str:
    described, loading, (width, height) = numbers["machine"], numbers["loading"], numbers["size"]
    lines = [
        f"{numbers['model_version']} on {numbers['device']}, {numbers['keyframes']} keyframes of {width} x {height}",
        ", ".join(
            [
                described["cpu"],
                f"{described['cores']} cores, {described['threads']} threads",
                *([described["gpu"]] if described["gpu"] else []),
                f"torch {described['torch']}",
            ]
        ),
        f"loaded in {loading['seconds']} s, with {loading['peak_mb']} MB for {loading['weights_mb']} MB of weights",
        "",
        _row("", *ways),
        _row("precision", *(numbers[way]["precision"] for way in ways)),
        _row("keyframes at a time", *(numbers[way]["batch_size"] for way in ways)),
    ]
    for group, rows in ROWS.items():
        lines += ["", {"frames_per_second": "frames a second", "memory_mb": "MB"}[group]]
        for key, label in rows.items():
            values = [numbers[way][group][key] for way in ways]
            if None not in values:
                lines.append(_row(f"  {label}", *values))
    if "fine_tuning" in numbers:
        learning = numbers["fine_tuning"]
        sizes = {ROWS["memory_mb"][key]: size for key, size in learning["memory_mb"].items() if size is not None}
        told = "; ".join(f"{label} {size} MB" for label, size in sizes.items())
        lines += ["", f"fine-tuning: {learning['frames_per_second']} frames a second; {told}"]
    if "ratio" in numbers:
        lines += ["", f"{numbers['ratio']} times as fast as plain"]
    return "\n".join(lines)


def _row(label: str, *values: object) -> str:
    return f"{label:24}" + "".join(f"{value!s:>12}" for value in values)
