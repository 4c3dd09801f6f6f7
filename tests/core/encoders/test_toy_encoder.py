"""An image encoder and an audio encoder that nobody else knows: a class each, and a line each in the registry."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import pytest
import torch
from torch import Tensor, nn

from av2t_core.encoders.melspectrogram import mono
from av2t_core.errors import WeightsError
from av2t_core.media.sound import Sound
from av2t_core.model import presets
from av2t_core.model.inputs import stack_frames
from av2t_core.model.published_weights import Published
from av2t_core.prediction.predictor import Predictor
from av2t_core.versions.conversion import encoder_tensors, kind_of
from tests.core.toys import assert_same, fine_tuned, saved_and_loaded, windows


class ToyImageEncoder(nn.Module):
    width = 5
    published: Published | None = None

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, self.width)

    @classmethod
    def build(cls, _labels: Sequence[str]) -> Self:
        return cls()

    @classmethod
    def from_checkpoint(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(state)

    @torch.inference_mode()
    def encode(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        return self.linear(stack_frames(images, 4, "bilinear").mean(dim=(2, 3)) / 255)  # type: ignore[no-any-return]


class ToyAudioEncoder(nn.Module):
    width = 7
    published = Published(
        kind="toy",
        what="a toy",
        part="toy",
        repository="nobody/toy",
        names=("toy.pth",),
        example="toy.pth",
        marks=("toy.weight",),
    )

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, self.width)

    @classmethod
    def build(cls, _labels: Sequence[str]) -> Self:
        return cls()

    @classmethod
    def from_checkpoint(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key.replace("toy.", "linear."): tensor for key, tensor in state.items()}

    @torch.inference_mode()
    def encode(self, sounds: Sequence[Sound]) -> Tensor:
        samples = [torch.from_numpy(mono(sound, 8000)) for sound in sounds]
        return self.linear(torch.stack([torch.stack([each.std(), each.abs().max()]) for each in samples]))  # type: ignore[no-any-return]


@pytest.fixture
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(presets.IMAGE_ENCODERS, "toy", presets.Part(f"{__name__}:ToyImageEncoder"))
    monkeypatch.setitem(presets.AUDIO_ENCODERS, "toy", presets.Part(f"{__name__}:ToyAudioEncoder"))
    preset = presets.Preset(size="tiny", image_encoder="toy", audio_encoder="toy", feature_width=16, adapter_width=8)
    monkeypatch.setitem(presets.PRESETS, "toy", preset)


@pytest.mark.usefixtures("_registered")
def test_they_predict_are_saved_and_loaded_and_the_model_learns_from_them(tmp_path: Path) -> None:
    predictor = Predictor.random("toy", "cpu", precision="fp32")
    assert (predictor.loaded.model.config.image_width, predictor.loaded.model.config.audio_width) == (5, 7)
    found = list(predictor.predict(windows()))
    assert len(found) == 3
    again = saved_and_loaded(predictor, "toy", tmp_path)
    assert_same(found, list(again.predict(windows())))
    changed = fine_tuned(again, tmp_path / "run")
    assert {"projector.audio_proj.weight", "projector.vision_proj.weight"} <= changed


@pytest.mark.usefixtures("_registered")
def test_its_published_state_dict_is_recognised_and_renamed() -> None:
    state = {"toy.weight": torch.ones(7, 2), "toy.bias": torch.ones(7)}
    assert kind_of("toy.pth", state) == "toy"
    part, tensors = encoder_tensors("toy.pth", "toy", state)
    assert part == "toy"
    assert tensors.keys() == {"audio_encoder.linear.weight", "audio_encoder.linear.bias"}


def test_an_encoder_that_nobody_knows_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(presets.PRESETS, "odd", presets.Preset(size="tiny", image_encoder="tiny", audio_encoder="ears"))
    with pytest.raises(WeightsError, match="there is no audio encoder 'ears'; there are tiny, ms-clap, laion-clap"):
        Predictor.random("odd", "cpu")
