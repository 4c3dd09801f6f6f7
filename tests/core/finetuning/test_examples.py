from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from av2t_core.data.avsbench import SIZE
from av2t_core.finetuning.examples import ClipExamples, Outlined, examples_of
from av2t_core.media.clip import Keyframe, Window
from av2t_core.media.sound import Sound
from av2t_core.model.inputs import to_device
from av2t_core.prediction.predictor import Predictor
from av2t_core.versions.checkpoint import Loaded
from tests.conftest import EMBEDDED

HEIGHT, WIDTH = 90, 160


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return Predictor.load(EMBEDDED, "cpu").loaded


def windows(count: int) -> list[Window]:
    rng = np.random.default_rng(0)
    return [
        Window(
            keyframe=Keyframe(index=k + 3, frame=10 * k, time=float(k)),  # numbered from 0, whatever their index
            image=rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8),
            sound=Sound.alone(rng.normal(0, 0.1, (1, 16000)).astype(np.float32), 16000),
        )
        for k in range(count)
    ]


def left_half() -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[:, : WIDTH // 2] = True
    return mask


@pytest.fixture(scope="module")
def examples(loaded: Loaded) -> ClipExamples:
    return examples_of(loaded, windows(10), {8: left_half()}, {8: [Outlined(labels=("dog",), mask=left_half())]}, "abc")


def test_what_is_learnt_from_is_what_is_predicted_from(loaded: Loaded, examples: ClipExamples) -> None:
    segmenter, kept = loaded.model.segmenter, examples.keyframes
    images = to_device([window.image for window in windows(10)], torch.device("cpu"))
    predicted, learnt = segmenter.inputs(segmenter.squares(images)), segmenter.inputs(kept.images)
    with torch.inference_mode():
        v, a = loaded.image_encoder.encode(images), loaded.audio_encoder.encode([w.sound for w in windows(10)])
    # Rounded to the steps of a byte; by its cubic curves BEiT-3's input overshoots black and white a little.
    assert (learnt["sam"] - predicted["sam"]).abs().max() <= 0.51 / 57
    assert (learnt["multimodal"] - predicted["multimodal"].clamp(-1, 1)).abs().max() <= 0.51 / 127.5
    torch.testing.assert_close(kept.v[:, 0], v, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(kept.a, a, atol=1e-4, rtol=1e-4)
    assert not kept.v[:, 1].equal(kept.v[:, 0])


def test_a_window_without_a_mask_is_one_where_nothing_sounds(examples: ClipExamples) -> None:
    assert examples.keyframes.target.flatten(1).any(dim=1).tolist() == [number == 8 for number in range(10)]
    [target] = examples.keyframes.target[8:9]
    assert target[:, : SIZE // 2].all()
    assert not target[:, SIZE // 2 :].any()
    assert examples.labels == ((8, ("dog",)),)
    assert len(examples.things) == 1
    assert [row.keyframe for row in examples.rows(apart=False)] == list(range(10))
    [thing] = examples.rows(apart=True)
    assert thing.keyframe == 8
    assert thing.target.equal(target)


def test_they_come_back_as_they_were_kept(examples: ClipExamples, tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    assert ClipExamples.load(path) is None
    examples.save(path)
    again = ClipExamples.load(path)
    assert again is not None
    assert (again.sha256, again.size, again.labels) == ("abc", (HEIGHT, WIDTH), examples.labels)
    assert again.things.equal(examples.things)
    assert again.outlines.equal(examples.outlines)
    assert all(tensor.equal(again.keyframes.tensors[name]) for name, tensor in examples.keyframes.tensors.items())
    path.write_bytes(path.read_bytes()[:-100])
    assert ClipExamples.load(path) is None
