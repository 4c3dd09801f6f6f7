"""MS-CLAP 2023 (arXiv 2309.05767), which the paper hears with: a log-mel front end, HTSAT, a projection.

The front end is that of the published model to the letter: its filters were computed for 32 kHz and are used at 44.1,
and several channels are heard one after the other. The captions' half, GPT-2 and a projection, tells what things of a
name sound like.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from math import ceil, log

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from av2t_core.encoders import PublishedEncoder, gpt2, htsat
from av2t_core.encoders.melspectrogram import log_mel, resample_second
from av2t_core.media.sound import MARGIN, Sound
from av2t_core.model.published_weights import Published, Source

SAMPLE_RATE = 44_100
WIDTH = 1024

PROMPT = "this is the sound of {}"
"""The authors', for the names of classes; these are of small letters in all that they show."""
LONGEST = 77
"""Tokens of a text, its end included."""

_PAD = "!"
# Without its captions' half the part was called ms-clap-2023, and such a one is not to be taken for it.
_PART = "ms-clap-2023-captions"
_TOWER = "audio_encoder.base.htsat."
_NAMES = {  # what keys begin with, ours to the authors'; the others are the same
    "projection.": "audio_encoder.projection.",
    "captions.gpt2.": "caption_encoder.base.",
    "captions.projection.": "caption_encoder.projection.",
    "captions.merges": gpt2.FILE,
}


class Projection(nn.Module):
    """An embedding (B, width) to (B, WIDTH): LayerNorm(x W1 + gelu(x W1) W2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, WIDTH, bias=False)
        self.linear2 = nn.Linear(WIDTH, WIDTH, bias=False)
        self.layer_norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        projected = self.linear1(x)
        return self.layer_norm(projected + self.linear2(F.gelu(projected)))  # type: ignore[no-any-return]


class CaptionEncoder(nn.Module):
    """Texts to (B, WIDTH): what GPT-2 makes of a text's last token, projected."""

    merges: Tensor

    def __init__(self) -> None:
        super().__init__()
        from transformers.models.gpt2.configuration_gpt2 import GPT2Config  # its package takes seconds
        from transformers.models.gpt2.modeling_gpt2 import GPT2Model

        config = GPT2Config()
        self.gpt2 = GPT2Model(config)
        self.projection = Projection(config.n_embd)
        self.register_buffer("merges", torch.zeros(gpt2.MERGES, 2, dtype=torch.int32))

    def forward(self, texts: Sequence[str]) -> Tensor:
        tokenizer = gpt2.tokenizer(self.merges, _PAD)
        tokenizer.enable_truncation(LONGEST)
        rows = [torch.tensor(tokenizer.encode(f"{text} {gpt2.END}").ids) for text in texts]
        tokens = pad_sequence(rows, batch_first=True).to(self.merges.device)  # by _PAD, whose number is 0
        # What fills a row comes after its text, where GPT-2 does not look. A "!" in a text counts for such, as it does
        # to the authors.
        last = (tokens != 0).sum(dim=1) - 1
        hidden = self.gpt2(tokens, use_cache=False).last_hidden_state  # (B, tokens, 768)
        return self.projection(hidden[torch.arange(len(hidden), device=hidden.device), last])  # type: ignore[no-any-return]


class MsClapAudioEncoder(PublishedEncoder):
    """See `av2t_core.encoders.AudioEncoder`, `.EncoderClass` and `.naming.Reader`."""

    width = WIDTH
    # HTSAT's classifier, what follows from the architecture, and the masks that older releases of transformers stored.
    unread = re.compile(rf"{re.escape(_TOWER)}{htsat.UNREAD}|caption_encoder\.base\.h\.\d+\.attn\.(?:masked_)?bias$")
    published = Published(
        kind="ms-clap",
        what="MS-CLAP",
        part=_PART,
        repository="microsoft/msclap",
        names=(r"CLAP_weights_2023\.pth",),
        example="CLAP_weights_2023.pth",
        marks=("audio_encoder.base.htsat.", "audio_encoder.projection."),
        beside=(
            Published(
                kind="gpt2-merges",
                what="GPT-2's merges, by which MS-CLAP reads names",
                part=_PART,
                repository="openai-community/gpt2",
                names=(r"merges\.txt",),
                example=gpt2.FILE,
                marks=(gpt2.FILE,),
            ),
        ),
    )

    def __init__(self) -> None:
        super().__init__()
        self.htsat = htsat.Htsat()
        self.projection = Projection(htsat.WIDTH)
        self.captions = CaptionEncoder()
        self.logit_scale = nn.Parameter(torch.tensor(log(1 / 0.07)))
        self.eval()

    @classmethod
    def source(cls, key: str) -> Source:
        for ours, theirs in _NAMES.items():
            if key.startswith(ours):
                return Source(theirs + key.removeprefix(ours))
        return htsat.source(_TOWER, key)

    @property
    def slope(self) -> float:
        return float(self.logit_scale.detach().exp())

    @torch.inference_mode()
    def encode(self, sounds: Sequence[Sound]) -> Tensor:
        device = self.projection.linear1.weight.device
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, sound in enumerate(sounds):
            alike[sound.rate, len(sound.samples)].append(index)
        pictures = torch.empty(len(sounds), 1, htsat.FRAMES, htsat.MELS, device=device)
        for indices in alike.values():
            heard = segments([sounds[index] for index in indices], device)
            pictures[indices] = htsat.picture(decibels(heard))
        return self.projection(self.htsat(pictures))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def read(self, names: Sequence[str]) -> Tensor:
        return F.normalize(self.captions([PROMPT.format(name.replace("_", " ").lower()) for name in names]), dim=-1)


def segments(sounds: Sequence[Sound], device: torch.device) -> Tensor:
    """Sounds of one rate and number of channels to (B, channels * SAMPLE_RATE): a stereo second is left, then right."""
    rate = sounds[0].rate
    if not rate:
        return torch.zeros(len(sounds), SAMPLE_RATE, device=device)
    samples = torch.from_numpy(np.stack([sound.samples for sound in sounds])).to(device)
    seconds = resample_second(samples, rate, SAMPLE_RATE)
    for second, sound in zip(seconds, sounds, strict=True):
        if sound.end is not None:  # the published model pads with zeros what was resampled as a whole
            second[:, max(0, ceil((sound.end - MARGIN) * SAMPLE_RATE / rate)) :] = 0
    return seconds.flatten(1)


def decibels(segments: Tensor) -> Tensor:
    """(B, N) to (B, 64, 1 + N / 320)."""
    return log_mel(segments, sample_rate=32_000, n_fft=1024, hop=320, mels=htsat.MELS, low=50, high=14_000)
