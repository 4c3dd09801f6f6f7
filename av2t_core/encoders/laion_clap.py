"""LAION-CLAP's audio half (arXiv 2211.06687), through laion-clap: HTSAT and the projection behind it."""

import importlib.util
import sys
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from av2t_core.encoders.melspectrogram import mono
from av2t_core.soundtrack import Sound

SAMPLE_RATE = 48_000
CLIP_SAMPLES = 480_000  # the model hears ten seconds; a window is repeated until they are full
WIDTH = 512


class LaionClapAudioEncoder(nn.Module):
    """See `av2t_core.encoders.AudioEncoder`. Without weights it is random; nothing is ever downloaded here.

    `weights`: the `audio_branch.*` and `audio_projection.*` entries of one of LAION's HTSAT-tiny checkpoints.
    """

    width = WIDTH

    def __init__(self, weights: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.audio_branch = _tower()
        self.audio_projection = nn.Sequential(nn.Linear(768, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        if weights is not None:
            self.load_state_dict(weights)
        self.eval()

    @torch.inference_mode()
    def encode(self, sounds: Sequence[Sound]) -> Tensor:
        device = next(self.parameters()).device
        seconds = torch.from_numpy(np.stack([mono(sound, SAMPLE_RATE) for sound in sounds]))
        clips = seconds.repeat(1, CLIP_SAMPLES // SAMPLE_RATE).to(device)
        heard = self.audio_branch({"waveform": clips}, device=device)["embedding"]
        return F.normalize(self.audio_projection(heard), dim=-1)


def _tower() -> nn.Module:
    """HTSAT-tiny. Taken from laion_clap.clap_module, without laion_clap, whose import fetches three tokenizers."""
    spec = importlib.util.find_spec("laion_clap")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    shell = ModuleType("laion_clap")
    shell.__path__ = list(spec.submodule_search_locations)
    previous = sys.modules.get("laion_clap")
    sys.modules["laion_clap"] = shell
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it speaks to torch and timm in old ways
            from laion_clap.clap_module.htsat import create_htsat_model
            from laion_clap.clap_module.model import CLAPAudioCfp

            config = CLAPAudioCfp(
                model_type="HTSAT",
                model_name="tiny",
                sample_rate=SAMPLE_RATE,
                window_size=1024,
                hop_size=480,
                clip_samples=CLIP_SAMPLES,
            )
            return create_htsat_model(config)  # type: ignore[no-any-return]
    finally:
        del sys.modules["laion_clap"]
        if previous is not None:
            sys.modules["laion_clap"] = previous
