"""`av2t bench`: how fast a model version is, and how much memory it takes."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from av2t.console import progress_bar, report
from av2t.options import DEMO_CLIPS, Count, ModelOptions, load_predictor
from av2t.signature import Arg
from av2t_core.media.clip import Clip
from av2t_core.model.presets import check_preset
from av2t_core.versions.version import resolve

if TYPE_CHECKING:
    from av2t_core.evaluation.benchmark import Memory, Speed
    from av2t_core.prediction.predictor import Predictor

DEMO_CLIP = DEMO_CLIPS / "cat.mp4"

ROWS = {
    "frames_per_second": {
        "decoding": "decoding",
        "image_encoder": "image encoder",
        "audio_encoder": "audio encoder",
        "detector": "detector",
        "class_maps": "maps of classes",
        "faces": "faces",
        "beit3": "BEiT-3",
        "sam_image_encoder": "SAM's image encoder",
        "mask_decoder": "mask decoder",
        "native_size": "masks to native size",
        "rest": "all else",
        "whole": "the whole",
    },
    "memory_mb": {"host_peak": "host, peak", "host_mapped": "of it mapped files", "device_peak": "GPU, peak"},
}
"""What the text shows, by the names of the JSON."""


def bench(
    video: Annotated[Path, Arg("default: a demo clip", "VIDEO")] = DEMO_CLIP,
    *,
    options: ModelOptions,
    plain: Annotated[bool, Arg("run it the plain way, too, and print the ratio")] = False,
    fine_tune: Annotated[bool, Arg("measure how fast it learns, too, as /train has it do")] = False,
    random_weights: Annotated[bool, Arg("of the preset NAME; its masks mean nothing")] = False,
    keyframes: Annotated[Count, Arg("how many", "N")] = 32,
    json: Annotated[bool, Arg("print the numbers as JSON")] = False,
) -> None:
    """Measure how fast a model version is, and how much memory it takes.

    VIDEO is played again and again until --keyframes of it are masked; its silent seconds are left out, for the model
    does not look at them. One batch, or on a GPU as many keyframes, goes before and is not counted. The whole is what a
    user waits for, from the file to masks of its size, without loading the model. The stages are measured in a pass of
    their own, one after the other.

    --plain adds a run in fp32, one keyframe after the other, without decoding ahead and with every attention matrix
    spelled out. --fine-tune adds what /train does with the model once the clips are fetched. `av2t evaluate` measures
    how right a model version is.

    examples:
      av2t bench --model small --plain
      av2t bench --model sam2-l --random-weights --keyframes 4    without its weights, on a small machine
    """
    # The model name and the video come first: a mistake in one of them should not wait for the model to load.
    settings = options.settings(run_model=not random_weights)
    if random_weights:
        check_preset(settings.model)
    else:
        resolve(settings.model, settings.models_dir).check()
    with Clip(video) as clip:
        height, width, _ = next(clip.windows()).image.shape
    from av2t_core.evaluation.benchmark import loading, machine, measure, measure_plain, steps

    numbers: dict[str, Any] = {"video": str(video), "size": [width, height], "keyframes": keyframes}
    ways = {"fast": measure} | ({"plain": measure_plain} if plain else {})
    for way, measured in ways.items():
        ways_options = {"precision": "fp32", "batch_size": 1} if way == "plain" else {}
        predictor, cost = loading(partial(load_predictor, settings, random=random_weights, **ways_options))
        device = predictor.loaded.device
        with progress_bar(f"{way} run", steps(predictor, keyframes), "keyframes") as bar:
            speed = measured(predictor, video, keyframes, bar.update)
        numbers |= {"model_version": predictor.model_version, "device": str(device), "machine": machine(device)}
        if way == "fast":  # a second time, memory and files are at hand already
            peak, weights = round(cost.peak / 1e6), round(cost.weights / 1e6)
            numbers["loading"] = {"seconds": _rounded(cost.seconds), "peak_mb": peak, "weights_mb": weights}
        numbers[way] = _numbers(predictor, speed)
        if fine_tune and way == "fast":
            numbers["fine_tuning"] = _fine_tuning(predictor, video, keyframes)
        del predictor  # before the next one is loaded
    if plain:
        fast, slow = (numbers[way]["frames_per_second"]["whole"] for way in ways)
        numbers["ratio"] = _rounded(fast / slow)
    report(numbers, _lines(numbers, list(ways)), json=json)


def _fine_tuning(predictor: "Predictor", video: Path, keyframes: int) -> dict[str, Any]:
    from av2t_core.evaluation.benchmark import measure_fine_tuning

    with progress_bar("fine-tuning", None, "steps") as bar:

        def show(step: int, steps: int) -> None:
            bar.total = steps
            bar.update(step - bar.n)

        learning = measure_fine_tuning(predictor, video, keyframes, show)
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


def _lines(numbers: Mapping[str, Any], ways: Sequence[str]) -> list[str]:
    described, loading, (width, height) = numbers["machine"], numbers["loading"], numbers["size"]
    cores = f"{described['cores']} cores, {described['threads']} threads"
    lines = [
        f"{numbers['model_version']} on {numbers['device']}, {numbers['keyframes']} keyframes of {width} x {height}",
        ", ".join(filter(None, [described["cpu"], cores, described["gpu"], f"torch {described['torch']}"])),
        f"loaded in {loading['seconds']} s, with {loading['peak_mb']} MB for {loading['weights_mb']} MB of weights",
        "",
        _row("", *ways),
        _row("precision", *(numbers[way]["precision"] for way in ways)),
        _row("keyframes at a time", *(numbers[way]["batch_size"] for way in ways)),
    ]
    for group, rows in ROWS.items():
        lines += ["", {"frames_per_second": "frames a second", "memory_mb": "MB"}[group]]
        for key in numbers[ways[0]][group]:  # of a segmenter's or a finder's stages some may be its own
            values = [numbers[way][group][key] for way in ways]
            if None not in values:
                lines.append(_row(f"  {rows.get(key, key)}", *values))
    if "fine_tuning" in numbers:
        learning = numbers["fine_tuning"]
        sizes = {ROWS["memory_mb"][key]: size for key, size in learning["memory_mb"].items() if size is not None}
        told = "; ".join(f"{label} {size} MB" for label, size in sizes.items())
        lines += ["", f"fine-tuning: {learning['frames_per_second']} frames a second; {told}"]
    if "ratio" in numbers:
        lines += ["", f"{numbers['ratio']} times as fast as plain"]
    return lines


def _row(label: str, *values: object) -> str:
    return f"{label:24}" + "".join(f"{value!s:>12}" for value in values)
