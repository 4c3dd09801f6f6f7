"""Words as prompts: what is heard and seen by its name, and what a segmenter is asked for by it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from av2t_core.encoders.naming import Namer


@dataclass(frozen=True, kw_only=True)
class Found:
    """Something in view that sounds, before it has a mask.

    `names`: what it may be called, with the probabilities by sound and sight, the likeliest first. `heard`: the
    probability of that one by the sound alone. `box`: where it was seen, x0, y0, x1, y1 in pixels of the frame;
    `sure`: whether a detector gave it, and so the mask may not leave it. `places` (h, w): how much it looks like the
    thing in equal cells of the frame, with a mean of 0 and a deviation of 1; zeros where that is not known.
    `prompts`: several ways to ask for it, (n, text_width) each.
    """

    names: Mapping[str, float]
    heard: float
    box: tuple[float, float, float, float]
    sure: bool
    places: Tensor
    prompts: tuple[Tensor, ...]

    @property
    def likelihood(self) -> float:
        """Of the likeliest name."""
        return next(iter(self.names.values()))


class Finder(Protocol):
    """An `nn.Module` that finds by name what sounds, with parts of the model that it does not own."""

    def silence(self, a: Tensor) -> Tensor:
        """Of sounds' embeddings (B, audio_width) the probability (B,) that nothing sounds which could be in view."""

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Those of the names that mean nothing to it; it may also be that a nearer name has taken what they mean."""

    def find(
        self, images: Sequence[Tensor], a: Tensor, beside: Tensor, names: Sequence[str], learned: Namer
    ) -> list[list[Found]]:
        """What sounds in each of B frames (3, H, W) of 0..255. `names`: all that is asked for; none asks for all.

        `a` (B, audio_width): the embedding of each frame's sound, and `beside` (B, 2, audio_width) of the sounds before
        and after it in the clip; where there is none, its own again. `learned`: the names that a project has taught,
        beside those that the finder knows.
        """

    def stages(self) -> dict[str, tuple[Any, str]]:
        """The methods that a benchmark times, owner and name, by what their stage is called."""

    def places(self, image: Tensor) -> Tensor:
        """Embeddings of equal cells of a frame (3, H, W), by which learned names find their place: (width, h, w)."""

    def ask(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """The prompts (B, n, text_width) for things in boxes (B, 4), x0, y0, x1, y1 in pixels of a frame of `size`."""
