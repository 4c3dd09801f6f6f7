"""How fast a model predicts, as a whole and stage by stage, and what memory that takes.

The whole is measured undisturbed. The stages have a pass of their own, in which nothing is read ahead and a GPU is
waited for before and after each: their times tell where the time goes, and add up to more than the whole.
"""

import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from av2t_core.errors import MediaError
from av2t_core.media.clip import Clip, Window
from av2t_core.memory import device_peak, resident, resident_files, resident_peak, start_peaks
from av2t_core.prediction.predictor import SILENT, Predictor


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The most that was held at once, in bytes."""

    host: int  # the process's resident memory, all that it holds and maps included
    mapped: int  # what of it are pages of files, which the kernel takes back when memory runs short
    device: int | None  # allocated on the GPU; None without one


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What one way of running took, in seconds for all `keyframes` together.

    `stages`, of a prediction, in order, those that ran: decoding, the encoders, the finder's, the segmenter's,
    `native_size`, where the masks' logits are brought to the video's size, and `rest`, all that has no name.
    """

    keyframes: int
    seconds: float  # from the file to masks at native size
    memory: Memory
    stages: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What it took to load a model. Bytes and seconds; `peak` is what the resident memory grew by."""

    seconds: float
    peak: int
    weights: int


def loading(load: Callable[[], Predictor]) -> tuple[Predictor, Cost]:
    """The predictor that `load` gives, and what it took."""
    start_peaks(torch.device("cpu"))
    before, began = resident(), time.perf_counter()
    predictor = load()
    _wait_for(predictor.loaded.device)
    seconds = time.perf_counter() - began
    modules: list[nn.Module] = list(predictor.loaded.modules.values())
    tensors = {t.data_ptr(): t.nbytes for module in modules for t in (*module.parameters(), *module.buffers())}
    return predictor, Cost(seconds=seconds, peak=resident_peak() - before, weights=sum(tensors.values()))


def audible_keyframes(predictor: Predictor, path: Path, count: int) -> list[int]:
    """The indices of a video's first keyframes, at most `count`, in whose windows something sounds; for the others the
    model does not segment the frame. MediaError: there is none.
    """
    with Clip(path) as clip:
        audible = (window.keyframe.index for window in clip.windows() if predictor.silence([window])[0] <= SILENT)
        found = list(islice(audible, count))
    if not found:
        raise MediaError(f"{path.name}: the model hears nothing in it, so that it does not run; use another video")
    return found


def repeated(path: Path, keyframes: Sequence[int], count: int) -> Iterator[Window]:
    """`count` windows of a video, of these keyframes (one at least), from the first one again after the last."""
    left, chosen = count, set(keyframes)
    while left:
        with Clip(path) as clip:
            some = (window for window in clip.windows() if window.keyframe.index in chosen)
            for window in islice(some, min(left, len(chosen))):
                left -= 1
                yield window


def measure(
    predictor: Predictor,
    path: Path,
    keyframes: int,
    on_keyframe: Callable[[], object],
    predict: Callable[[Iterable[Window]], Iterable[object]] | None = None,
) -> Speed:
    """As a prediction runs, by `predictor.predict` or otherwise, after some that do not count: a batch, and as many on
    a GPU. `on_keyframe` is called `steps` times.
    """
    predict = predict or predictor.predict
    device = predictor.loaded.device
    windows = partial(repeated, path, audible_keyframes(predictor, path, keyframes))
    for _ in predict(windows(_warm_up(predictor, keyframes))):
        on_keyframe()
    start_peaks(device)
    began = time.perf_counter()
    for _ in predict(windows(keyframes)):  # its masks are on the host, so nothing is still under way
        on_keyframe()
    seconds, memory = time.perf_counter() - began, _peaks(device)
    stages = _stages(predictor, windows(keyframes), on_keyframe)
    return Speed(keyframes=keyframes, seconds=seconds, stages=stages, memory=memory)


def measure_plain(predictor: Predictor, path: Path, keyframes: int, on_keyframe: Callable[[], object]) -> Speed:
    """One keyframe after the other, nothing decoded ahead, every attention matrix spelled out; otherwise as `measure`.

    The predictor is to be of fp32 and of batches of one.
    """
    with predictor.loaded.model.segmenter.plain_attention():
        one_by_one = lambda windows: (found for window in windows for found in predictor.predict([window]))  # noqa: E731
        return measure(predictor, path, keyframes, on_keyframe, one_by_one)


def measure_fine_tuning(
    predictor: Predictor, path: Path, keyframes: int, on_step: Callable[[int, int], object]
) -> Speed:
    """As /train learns, the keyframes being at hand, and after as many that do not count. `on_step` gets the step that
    is done and how many there are.

    The predictor's model learns that all in view sounds, and is of no use afterwards.
    """
    # They bring all that trains.
    from av2t_core.finetuning.examples import Outlined, examples_of
    from av2t_core.finetuning.fine_tuning import FineTuneRecipe, FineTuning
    from av2t_core.training.run_folder import RunFolder

    loaded = predictor.loaded
    windows = list(repeated(path, audible_keyframes(predictor, path, keyframes), keyframes))
    whole = {number: np.ones(window.image.shape[:2], np.bool_) for number, window in enumerate(windows)}
    things = {number: [Outlined(labels=("all",), mask=mask)] for number, mask in whole.items()}
    examples = examples_of(loaded, windows, whole, things, sha256="")
    with TemporaryDirectory(prefix="av2t-bench-") as folder:
        tuning = FineTuning(loaded, [examples], None, FineTuneRecipe(epochs=2), RunFolder(Path(folder)))
        with closing(tuning.run()) as steps:
            for at in islice(steps, tuning.steps // 2):
                on_step(at.step, at.steps)
            start_peaks(loaded.device)
            began = time.perf_counter()
            for at in steps:
                on_step(at.step, at.steps)
        return Speed(keyframes=keyframes, seconds=time.perf_counter() - began, memory=_peaks(loaded.device))


def steps(predictor: Predictor, keyframes: int) -> int:
    """How many keyframes `measure` takes in all: to warm up, for the whole, and for the stages."""
    return _warm_up(predictor, keyframes) + 2 * keyframes


def machine(device: torch.device) -> dict[str, str | int | None]:
    """What the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(": ")[2] for line in lines if line.startswith("model name"))  # Arm's kernels tell none
    return {
        "cpu": next(names, platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "torch": torch.__version__,
    }


def _warm_up(predictor: Predictor, keyframes: int) -> int:
    """How many go before. A GPU's libraries load and choose their kernels by the shapes that they meet."""
    return keyframes if predictor.loaded.device.type == "cuda" else min(predictor.batch_size, keyframes)


def _stages(predictor: Predictor, windows: Iterator[Window], on_keyframe: Callable[[], object]) -> dict[str, float]:
    loaded, segmenter = predictor.loaded, predictor.loaded.model.segmenter
    stopwatch = partial(_stopwatch, device=loaded.device)
    encoders: dict[str, tuple[object, str]] = {
        "image_encoder": (loaded.image_encoder, "encode"),
        "audio_encoder": (loaded.audio_encoder, "encode"),
    }
    found = loaded.finder.stages() if loaded.finder is not None else {}
    stages = encoders | found | segmenter.stages() | {"native_size": (segmenter, "upsample")}
    seconds = dict.fromkeys(("decoding", *stages), 0.0)

    @stopwatch(seconds, "decoding")
    def decode() -> list[Window]:
        return list(islice(windows, predictor.batch_size))

    began = time.perf_counter()
    with ExitStack() as timed:
        for stage, (owner, method) in stages.items():
            setattr(owner, method, stopwatch(seconds, stage)(getattr(owner, method)))  # hides that of its class
            timed.callback(delattr, owner, method)
        while batch := decode():
            for _ in predictor.predict(batch):
                on_keyframe()
    seconds["rest"] = time.perf_counter() - began - sum(seconds.values())
    return {stage: taken for stage, taken in seconds.items() if taken}


@contextmanager
def _stopwatch(seconds: dict[str, float], stage: str, device: torch.device) -> Iterator[None]:
    """What it takes, or each call of what it decorates, counts for `stage`."""
    _wait_for(device)
    began = time.perf_counter()
    yield
    _wait_for(device)
    seconds[stage] += time.perf_counter() - began


def _peaks(device: torch.device) -> Memory:
    """Since `start_peaks`."""
    return Memory(host=resident_peak(), mapped=resident_files(), device=device_peak(device))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
