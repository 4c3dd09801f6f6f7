"""Against LAION's own tower, with weights made by name; its checkpoints are not at hand."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from av2t_core.encoders.laion_clap import LaionClapAudioEncoder
from av2t_core.encoders.melspectrogram import mono
from av2t_core.errors import WeightsError
from av2t_core.media.sound import Sound
from tests.core.encoders.laion import by_name_or_own


@pytest.fixture(scope="module")
def projection() -> nn.Sequential:
    module = nn.Sequential(nn.Linear(768, 512), nn.ReLU(), nn.Linear(512, 512))
    module.load_state_dict({key: by_name_or_own(key, tensor) for key, tensor in module.state_dict().items()})
    return module


@pytest.fixture(scope="module")
def checkpoint(laion_tower: nn.Module, projection: nn.Module) -> dict[str, Tensor]:
    """The keys of the dict under "state_dict" in LAION's files, as their training in several processes leaves them."""
    state = {f"audio_branch.{key}": tensor for key, tensor in laion_tower.state_dict().items()}
    state |= {f"audio_projection.{key}": tensor for key, tensor in projection.state_dict().items()}
    unread = (
        "logit_scale_a",
        "logit_scale_t",
        "text_branch.embeddings.position_ids",
        "text_transform.sequential.0.weight",
        "text_projection.0.weight",
        "audio_transform.sequential.0.weight",
    )
    state |= {key: torch.zeros(1) for key in unread}
    return {f"module.{key}": tensor for key, tensor in state.items()}


@pytest.fixture(scope="module")
def encoder(checkpoint: Mapping[str, Tensor]) -> LaionClapAudioEncoder:
    encoder = LaionClapAudioEncoder()
    encoder.load_state_dict(LaionClapAudioEncoder.from_checkpoint(checkpoint))
    return encoder


def test_it_hears_what_laions_tower_hears(
    encoder: LaionClapAudioEncoder, laion_tower: nn.Module, projection: nn.Module
) -> None:
    rng = np.random.default_rng(0)
    sounds = [
        Sound.alone(rng.normal(0, 0.1, (channels, rate)).astype(np.float32), rate)
        for channels, rate in ((1, 48_000), (2, 22_050), (6, 44_100))
    ]
    waveform = torch.from_numpy(np.stack([np.tile(mono(sound, 48_000), 10) for sound in sounds]))
    with torch.no_grad():
        heard = laion_tower({"waveform": waveform}, device=torch.device("cpu"))["embedding"]
        expected = F.normalize(projection(heard), dim=-1)

    a = encoder.encode([*sounds, Sound(samples=np.zeros((1, 0), np.float32), rate=0)])
    assert a.shape == (4, encoder.width) == (4, 512)
    torch.testing.assert_close(a[:3], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(a.norm(dim=-1), torch.ones(4))


def test_keys_with_and_without_module(checkpoint: Mapping[str, Tensor]) -> None:
    plain = {key.removeprefix("module."): tensor for key, tensor in checkpoint.items()}
    first, second = (LaionClapAudioEncoder.from_checkpoint(state) for state in (checkpoint, plain))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_every_key_is_accounted_for(checkpoint: Mapping[str, Tensor]) -> None:
    key = "audio_branch.bn0.running_mean"
    with pytest.raises(WeightsError, match=rf"\(1 keys\): missing {key}"):
        LaionClapAudioEncoder.from_checkpoint({k: tensor for k, tensor in checkpoint.items() if k != f"module.{key}"})
    with pytest.raises(WeightsError, match=r"\(1 keys\): unknown audio_branch\.bn1\.weight"):
        LaionClapAudioEncoder.from_checkpoint({**checkpoint, "module.audio_branch.bn1.weight": torch.ones(1)})
