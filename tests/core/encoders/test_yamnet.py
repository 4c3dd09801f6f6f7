"""YAMNet against what the original says, and on the project's own recordings."""

import numpy as np
import pytest
import torch

from av2t_core.encoders.yamnet import CLASSES, MELS, PATCH, SAMPLE_RATE, STEPS, YamNetAudioEncoder, log_mel
from av2t_core.media.sound import Sound, Soundtrack
from av2t_core.pretraining.yamnet_weights import SKIP, sounds
from av2t_core.versions.checkpoint import Loaded
from av2t_core.words.things import names
from tests.conftest import ROOT

DATA = ROOT / "tests" / "data"
NOTHING = Sound(samples=np.zeros((1, 0), np.float32), rate=0)


@pytest.fixture(scope="module")
def original() -> dict[str, np.ndarray]:
    with np.load(DATA / "golden" / "yamnet.npz") as golden:
        return dict(golden)


@pytest.fixture(scope="module")
def yamnet(small: Loaded) -> YamNetAudioEncoder:
    assert isinstance(small.audio_encoder, YamNetAudioEncoder)
    return small.audio_encoder


def test_its_front_end_is_the_originals(original: dict[str, np.ndarray]) -> None:
    pictures = log_mel(torch.from_numpy(sounds()))
    assert pictures.shape[1:] == (STEPS, MELS)
    # Where a loud tone leaves silence, two FFTs differ by a hundredth of what is added before the logarithm.
    np.testing.assert_allclose(pictures[:, ::SKIP], original["log_mel"], atol=2e-2, rtol=0)
    np.testing.assert_allclose(pictures[:3, ::SKIP], original["log_mel"][:3], atol=1e-4, rtol=0)


def test_it_hears_what_the_original_hears(yamnet: YamNetAudioEncoder, original: dict[str, np.ndarray]) -> None:
    margin = (SAMPLE_RATE - PATCH) // 2
    heard = [Sound.alone(np.pad(each, margin)[None], SAMPLE_RATE) for each in sounds()]
    probabilities = yamnet.classes(yamnet.encode(heard))
    np.testing.assert_allclose(probabilities, original["probabilities"], atol=2e-2, rtol=0)  # stored in fp16


@pytest.mark.parametrize(
    ("thing", "name"), [("rooster", "Chicken, rooster"), ("drumkit", "Drum"), ("dog", "Animal"), ("violin", "Music")]
)
def test_it_names_recordings(yamnet: YamNetAudioEncoder, thing: str, name: str) -> None:
    with Soundtrack(DATA / "cutouts" / "sounding" / thing / "sound_0.flac") as recording:
        [probabilities] = yamnet.classes(yamnet.encode([recording.second(0)]))
    assert probabilities[names("audioset").index(name)] > 0.5


def test_where_nothing_can_be_heard_is_silence(yamnet: YamNetAudioEncoder) -> None:
    [probabilities] = yamnet.classes(yamnet.encode([NOTHING]))
    assert names("audioset")[int(probabilities.argmax())] == "Silence"
    assert (probabilities > 0.01).sum() == 1


def test_seconds_are_independent_of_each_other_and_of_their_rate() -> None:
    torch.manual_seed(0)
    encoder = YamNetAudioEncoder()
    tone = np.asarray(np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000)[None] / 2, np.float32)
    stereo = Sound.alone(np.concatenate([tone, tone]), 48_000)
    low = Sound.alone(tone[:, ::3], 16_000)
    a = encoder.encode([stereo, NOTHING, low])
    assert a.shape == (3, encoder.width)
    torch.testing.assert_close(a[0], a[2], atol=1e-3, rtol=0)
    torch.testing.assert_close(a[1:2], encoder.encode([NOTHING]))
    assert encoder.classes(a).shape == (3, CLASSES)


def test_every_class_has_a_name_of_its_own() -> None:
    every = names("audioset")
    assert len(set(every)) == CLASSES
    assert (every[0], every[494], every[-1]) == ("Speech", "Silence", "Field recording")
