"""What is measured, not how fast it is: that depends on the machine, and on who else uses it."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from av2t.options import DEMO_CLIPS
from av2t_core.errors import MediaError
from av2t_core.evaluation.benchmark import (
    Speed,
    audible_keyframes,
    loading,
    machine,
    measure,
    measure_plain,
    repeated,
    steps,
)
from av2t_core.prediction.predictor import Predictor
from tests.core.clips import Sound, at_rate, tone, write_clip
from tests.core.model.micro import BACKBONES, Backbone, evf, inputs, micro

STAGES = (
    "decoding",
    "image_encoder",
    "audio_encoder",
    "beit3",
    "sam_image_encoder",
    "mask_decoder",
    "native_size",
    "rest",
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds that sound and one that does not."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, at_rate(5, 3), sounds=[Sound(samples=tone(2))], sound_codec="aac")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.load("tiny", "cpu", batch_size=2)


def test_a_clip_is_repeated_without_its_silent_seconds(clip: Path, predictor: Predictor) -> None:
    assert audible_keyframes(predictor, clip, 5) == [0, 1]
    assert audible_keyframes(predictor, clip, 1) == [0]
    assert [window.keyframe.index for window in repeated(clip, [0, 1], 5)] == [0, 1, 0, 1, 0]


def test_a_silent_clip_is_refused(tmp_path: Path, predictor: Predictor) -> None:
    silent = write_clip(tmp_path / "silent.mp4", at_rate(5, 2))
    with pytest.raises(MediaError, match=r"silent\.mp4: the model hears nothing in it"):
        audible_keyframes(predictor, silent, 1)


@pytest.mark.parametrize("way", [measure, measure_plain])
def test_every_stage_takes_its_time(clip: Path, predictor: Predictor, way: Callable[..., Speed]) -> None:
    count = itertools.count()
    speed = way(predictor, clip, 3, lambda: next(count))
    # A batch to warm up, three keyframes for the whole, three for the stages.
    assert next(count) == steps(predictor, 3) == 8
    assert tuple(speed.stages) == STAGES
    assert all(seconds > 0 for seconds in speed.stages.values())
    assert speed.seconds > 0
    assert speed.memory.host > speed.memory.mapped > 0
    assert speed.memory.device is None


def test_of_a_model_with_a_finder_those_stages_are_told_that_ran() -> None:
    predictor = Predictor.load("small", "cpu", batch_size=1)
    speed = measure(predictor, DEMO_CLIPS / "cat.mp4", 3, int)
    finder, segmenter = ("detector", "class_maps"), ("sam_image_encoder", "mask_decoder", "native_size")
    assert tuple(speed.stages) == ("decoding", "audio_encoder", *finder, *segmenter, "rest")
    assert all(seconds > 0 for seconds in speed.stages.values())


def test_measuring_leaves_the_model_as_it_was(clip: Path, predictor: Predictor) -> None:
    before = [set(vars(module)) for module in predictor.loaded.model.modules()]
    measure(predictor, clip, 1, int)
    assert [set(vars(module)) for module in predictor.loaded.model.modules()] == before


def test_the_plain_way_takes_one_keyframe_after_the_other(clip: Path) -> None:
    predictor, sizes = Predictor.load("tiny", "cpu", batch_size=4), []
    beit3 = evf(predictor.loaded.model).multimodal
    beit3.register_forward_pre_hook(lambda _module, args: sizes.append(len(args[0])))
    measure(predictor, clip, 4, int)
    assert sizes == [4, 4, 4]
    sizes.clear()
    predictor.batch_size = 1
    measure_plain(predictor, clip, 4, int)
    assert sizes == [1] * 9


class Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The names of the operations that are run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations.add(str(func))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
@pytest.mark.parametrize("backbone", BACKBONES)
def test_eager_attention_spells_out_what_else_is_fused(backbone: Backbone) -> None:
    model = micro(backbone)
    with Seen() as fused:
        logits = model(*inputs())
    with model.segmenter.plain_attention(), Seen() as plain:
        spelled_out = model(*inputs())
    assert any("flash_attention" in name for name in fused.operations)
    assert not any("flash_attention" in name for name in plain.operations)
    assert (logits - spelled_out).abs().max() < 1e-5
    with Seen() as again:
        model(*inputs())
    assert again.operations == fused.operations


def test_loading_counts_every_weight_once() -> None:
    predictor, cost = loading(lambda: Predictor.load("tiny", "cpu"))
    modules = list(predictor.loaded.modules.values())
    state = [tensor for module in modules for tensor in module.state_dict().values()]
    assert cost.weights >= sum(tensor.nbytes for tensor in state) > 30e6
    assert cost.seconds > 0


def test_the_machine_is_named() -> None:
    named = machine(torch.device("cpu"))
    assert named["cpu"]
    assert named["torch"] == torch.__version__
    assert named["gpu"] is None
