"""The frozen encoders in front of the model: their contracts, and one module for each that is known."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class ImageEncoder(Protocol):
    """Frames to embeddings v."""

    width: int

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Frames (H, W, 3) RGB of any sizes to (B, width), on the encoder's device; the length carries no meaning."""


class AudioEncoder(Protocol):
    """Windows of sound to embeddings a."""

    width: int

    def encode(self, windows: Sequence[NDArray[np.float32]], sample_rate: int) -> Tensor:
        """Windows (channels, samples) in -1..1 to (B, width), on the encoder's device; length carries no meaning."""
