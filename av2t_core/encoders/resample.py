"""Band-limited resampling by a windowed sinc (Smith, "Digital Audio Resampling Home Page", CCRMA 2002).

Sample n of the new rate lies at p = n * rate / target of the old one and is the sum over its neighbours k of

    c * x[k] * sinc(c * (k - p)) * cos^2(pi * c * (k - p) / (2 * ZEROS)),   c = ROLLOFF * min(1, target / rate)

as far as the cosine's first zero. With these two constants it is what torchaudio computes by default, and so what
MS-CLAP was trained on. soxr and scipy differ.
"""

from functools import lru_cache
from math import ceil, pi

import torch
from torch import Tensor
from torch.nn import functional as F

from av2t_core.media.sound import MARGIN

ZEROS = 6
"""Zero crossings of the sinc on either side."""

ROLLOFF = 0.99
"""The cut-off as a share of the lower of the two Nyquist frequencies."""


def resample_second(samples: Tensor, rate: int, target: int) -> Tensor:
    """A second with its margins, (..., MARGIN + rate + MARGIN) at `rate` Hz, to the second alone, (..., target).

    Whole seconds begin on a sample at every rate, so a second of a clip is the same as if all of the clip had been
    resampled. Only beyond 10.5 times the target rate does the sinc reach past the margin, where it then finds zeros.
    """
    if rate == target:
        return samples[..., MARGIN:-MARGIN]
    first, weights = _weights(rate, target, samples.device)
    reach = weights.shape[1] // 2
    neighbours = F.pad(samples, (reach - MARGIN, reach - MARGIN)).unfold(-1, weights.shape[1], 1)
    return torch.einsum("...nk,nk->...n", neighbours[..., first, :], weights)


@lru_cache(maxsize=8)  # a batch may mix rates, a worker sees many
def _weights(rate: int, target: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each sample of the new second, floor(p) (target,) and the weights (target, 2 * reach + 1) around it."""
    cutoff = ROLLOFF * min(1, target / rate)
    reach = ceil(ZEROS / cutoff)
    position = torch.arange(target) * rate
    distance = torch.arange(-reach, reach + 1)[None] - (position % target).double()[:, None] / target
    crossings = (distance * cutoff).clamp(-ZEROS, ZEROS)
    weights = cutoff * torch.sinc(crossings) * (crossings * (pi / 2 / ZEROS)).cos().square()
    return (position // target).to(device), weights.float().to(device)
