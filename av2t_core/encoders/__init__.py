"""The frozen encoders in front of the model: their contracts, and one file for each that is known."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

from torch import Tensor, nn

from av2t_core.media.sound import Sound
from av2t_core.model.published_weights import Published, Source, empty_weights, translate


class ImageEncoder(Protocol):
    """An `nn.Module` that makes embeddings v of frames. See `naming` for those that name what they see."""

    width: int

    def encode(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """RGB frames (3, H, W) of 0..255, of any sizes or as one batch, to (B, width); its length carries no meaning.

        Frames and embeddings are on the encoder's device.
        """


class AudioEncoder(Protocol):
    """An `nn.Module` that makes embeddings a of seconds of sound. See `naming` for those that name what they hear."""

    width: int

    def encode(self, sounds: Sequence[Sound]) -> Tensor:
        """Sounds of any rates and channels to (B, width), on the encoder's device; the length carries no meaning."""


class PublishedEncoder(nn.Module):
    """What the published encoders have in common; see `EncoderClass`.

    `unread` matches, from their beginning, the published keys that the encoder has no use for.
    """

    published: Published | None
    unread: re.Pattern[str]

    @classmethod
    def build(cls, _labels: Sequence[str] = ()) -> Self:
        return cls()

    @classmethod
    def from_checkpoint(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with empty_weights():
            own = cls().state_dict()
        return translate("encoder", state, own, cls.source, cls.unread)

    @classmethod
    def source(cls, key: str) -> Source:
        """Where the tensor of this name comes from."""
        raise NotImplementedError


class EmbeddedEncoder(nn.Module):
    """What those have in common whose weights are a part of the model versions that use them; see `EncoderClass`."""

    published = None

    @classmethod
    def build(cls, _labels: Sequence[str] = ()) -> Self:
        return cls()

    @classmethod
    def from_checkpoint(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(state)


class EncoderClass(Protocol):
    """What the class of an encoder offers, by which a preset finds it. Nothing here reaches a network.

    `published`: where its weights are; None if they are a part of the model versions that use it.
    """

    width: int
    published: Published | None

    def build(self, labels: Sequence[str]) -> Any:
        """The encoder, in a model whose own names for things are `labels`; its weights are random."""

    def from_checkpoint(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A published state dict, with those beside it, to the encoder's own, no tensor copied.

        WeightsError names every key that is missing, unknown or of another shape.
        """
