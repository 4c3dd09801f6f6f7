"""Against what the authors' code gave, from the file to the embedding, with weights made by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from av2t_core.encoders.gpt2 import FILE
from av2t_core.encoders.ms_clap import SAMPLE_RATE, MsClapAudioEncoder, decibels, segments
from av2t_core.errors import WeightsError
from av2t_core.media.clip import Clip
from av2t_core.media.sound import Sound
from tests.core import clips
from tests.core.encoders.laion import by_name_or_own

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "clap_audio.npz"
CPU = torch.device("cpu")
CASES = ("stereo16k_5s", "mono16k_4p3s")  # those whose sound came with the numbers; the second ends within a window

Golden = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def checkpoint(laion_tower: nn.Module, captions: dict[str, Tensor]) -> dict[str, Tensor]:
    """The keys of CLAP_weights_2023.pth, and merges, by which nothing is read here."""
    tower = {f"audio_encoder.base.htsat.{key}": tensor for key, tensor in laion_tower.state_dict().items()}
    shapes = {
        "linear1.weight": (1024, 768),
        "linear2.weight": (1024, 1024),
        "layer_norm.weight": (1024,),
        "layer_norm.bias": (1024,),
    }
    projection = {
        f"audio_encoder.projection.{key}": by_name_or_own(f"projection.{key}", torch.empty(shape))
        for key, shape in shapes.items()
    }
    others = {"logit_scale": torch.tensor(1.0), FILE: torch.zeros(50_000, 2, dtype=torch.int32)}
    return {**tower, **projection, **captions, **others}


@pytest.fixture(scope="module")
def encoder(checkpoint: Mapping[str, Tensor]) -> MsClapAudioEncoder:
    encoder = MsClapAudioEncoder()
    encoder.load_state_dict(MsClapAudioEncoder.from_checkpoint(checkpoint))
    return encoder


@pytest.fixture(scope="module", params=["copied", "shared"])
def golden_file(request: pytest.FixtureRequest) -> Path:
    """The copy holds less of the same, so that it is small: of the stereo clip the first second and its margin."""
    if request.param == "copied":
        return GOLDEN
    shared: Path = request.getfixturevalue("shared")
    return shared / "golden" / "clap_audio.npz"


@pytest.fixture(scope="module", params=CASES)
def golden(request: pytest.FixtureRequest, golden_file: Path) -> Golden:
    prefix = f"{request.param}/"
    with np.load(golden_file) as file:
        return {key.removeprefix(prefix): file[key] for key in file if key.startswith(prefix)}


@pytest.fixture(scope="module")
def sounds(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> list[Sound]:
    """The golden sound, written to a clip and read back as windows."""
    samples = golden["pcm16"].T.astype(np.float32) / np.float32(32768)
    path = clips.write_clip(
        tmp_path_factory.mktemp("golden") / "clip.mkv",
        clips.at_rate(4, len(golden["embedding"])),
        sounds=[clips.Sound(samples=samples, rate=int(golden["sr"]))],
    )
    with Clip(path) as clip:
        return [window.sound for window in clip.windows()]


def test_resampling_is_the_authors(golden: Golden, sounds: list[Sound]) -> None:
    channels = golden["pcm16"].shape[1]
    seconds = segments(sounds, CPU).reshape(len(sounds), channels, SAMPLE_RATE)
    whole = seconds.transpose(0, 1).flatten(1).numpy()  # (channels, samples)
    np.testing.assert_allclose(whole[:, :4000], golden["resampled_head"], atol=1e-5)
    if "resampled_tail" in golden:
        end = -(-len(golden["pcm16"]) * SAMPLE_RATE // int(golden["sr"]))
        np.testing.assert_allclose(whole[:, end - 4000 : end], golden["resampled_tail"], atol=1e-5)
        assert not whole[:, end:].any()


def test_segments_and_spectrogram_are_the_authors(golden: Golden, sounds: list[Sound]) -> None:
    heard = segments(sounds, CPU)
    np.testing.assert_allclose(heard[:, :256], golden["segments_head"], atol=1e-5)
    mel = decibels(heard[:1])[0].T.numpy()
    # As power, for what lies more than 50 dB below the loudest is the rounding of single precision in part.
    np.testing.assert_allclose(10 ** (mel / 10), 10 ** (golden["mel0"] / 10), rtol=3e-4, atol=3e-10)


def test_embeddings_are_the_authors(encoder: MsClapAudioEncoder, golden: Golden, sounds: list[Sound]) -> None:
    np.testing.assert_allclose(encoder.encode(sounds), golden["embedding"], atol=1e-4)


def test_a_sound_does_not_depend_on_its_batch(encoder: MsClapAudioEncoder) -> None:
    rng = np.random.default_rng(0)
    sounds = [
        Sound.alone(rng.normal(0, 0.1, (channels, rate)).astype(np.float32), rate)
        for channels, rate in ((1, 16_000), (2, 44_100), (1, 44_100), (2, 16_000), (8, 48_000), (1, 48_000))
    ]
    nothing = Sound(samples=np.zeros((1, 0), np.float32), rate=0)
    silence = Sound.alone(np.zeros((1, 16_000), np.float32), 16_000)
    together = encoder.encode([*sounds, nothing, silence])
    assert together.shape == (8, encoder.width) == (8, 1024)
    alone = torch.cat([encoder.encode([sound]) for sound in sounds])
    torch.testing.assert_close(together[:6], alone, atol=1e-4, rtol=0)
    torch.testing.assert_close(together[6], together[7])


def test_every_key_is_accounted_for(checkpoint: Mapping[str, Tensor]) -> None:
    extra = {**checkpoint, "audio_encoder.base.htsat.layers.4.norm.weight": torch.ones(1)}
    with pytest.raises(WeightsError, match=r"\(1 keys\): unknown audio_encoder\.base\.htsat\.layers\.4\.norm\.weight"):
        MsClapAudioEncoder.from_checkpoint(extra)
    key = "audio_encoder.base.htsat.layers.2.blocks.3.attn.qkv.bias"
    with pytest.raises(WeightsError, match=rf"\(1 keys\): missing {key}"):
        MsClapAudioEncoder.from_checkpoint({k: tensor for k, tensor in checkpoint.items() if k != key})
    with pytest.raises(WeightsError, match=rf"\(1 keys\): {key} is \(3,\), the encoder has \(1152,\)"):
        MsClapAudioEncoder.from_checkpoint({**checkpoint, key: torch.ones(3)})
    for key in (
        "caption_encoder.base.h.1.attn.c_attn.bias",
        "caption_encoder.projection.linear2.weight",
        "logit_scale",
        FILE,
    ):
        with pytest.raises(WeightsError, match=rf"\(1 keys\): missing {key}"):
            MsClapAudioEncoder.from_checkpoint({k: tensor for k, tensor in checkpoint.items() if k != key})
    with pytest.raises(WeightsError, match=r"\(1 keys\): unknown caption_encoder\.base\.h\.2\.ln_1\.bias"):
        MsClapAudioEncoder.from_checkpoint({**checkpoint, "caption_encoder.base.h.2.ln_1.bias": torch.ones(32)})


def test_what_is_read_can_be_stored(checkpoint: Mapping[str, Tensor], tmp_path: Path) -> None:
    """safetensors refuses tensors that share memory, and the parts of qkv lie in one."""
    tensors = MsClapAudioEncoder.from_checkpoint(checkpoint)
    save_file(tensors, tmp_path / "part.safetensors")
    stored = load_file(tmp_path / "part.safetensors")
    assert all(torch.equal(stored[key], tensor) for key, tensor in tensors.items())
