"""The frozen encoders in front of the model: their contracts, and one module for each that is known."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from av2t_core.media.sound import Sound


class ImageEncoder(Protocol):
    """Frames to embeddings v."""

    width: int

    def encode(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """RGB frames (3, H, W) of 0..255, of any sizes or as one batch, to (B, width); its length carries no meaning.

        Frames and embeddings are on the encoder's device.
        """


class AudioEncoder(Protocol):
    """Seconds of sound to embeddings a."""

    width: int

    def encode(self, sounds: Sequence[Sound]) -> Tensor:
        """Sounds of any rates and channels to (B, width), on the encoder's device; the length carries no meaning."""
