"""AV2T-SAM, the whole (paper, figure 1)."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from av2t_core.model.adapters import Adapters
from av2t_core.model.config import AV2TSamConfig
from av2t_core.model.feature import Projector, Prompter
from av2t_core.model.published_weights import NOTHING, Source, translate
from av2t_core.segmenters import Candidates, Images, TextPromptedSegmenter

DRAWN = ("projector.", "adapters.")
"""What the names of the modules begin with that the paper trains from nothing."""

_AUTHORS_NAMES = (
    ("adapters.shared.", "audio_prompt_generator.shared_mlp."),
    ("adapters.blocks.", "audio_prompt_generator.lightweight_mlp_"),
)


class AV2TSam(nn.Module):
    """Embeddings of a frame and of its second of sound, and the frame itself, to the mask of what sounds.

    All inputs are batches of B frames; a clip's frames are simply neighbours in the batch, for nothing in the model
    looks from one frame to another.
    """

    def __init__(self, config: AV2TSamConfig) -> None:
        super().__init__()
        self.config = config
        self.projector = Projector(config)
        self.segmenter: TextPromptedSegmenter = config.segmenter.build()
        self.adapters: Adapters | None = None
        if config.adapter:
            widths, shared = self.segmenter.block_widths, self.segmenter.shared_adapter
            self.adapters = Adapters(config.feature_width, config.adapter_width, widths, shared_output=shared)

    @property
    def prompter(self) -> Prompter[Tensor]:
        """What makes a text prompt of f."""
        return self.projector

    def forward(
        self,
        images: Images,
        v: Tensor,
        a: Tensor,
        features: Sequence[Tensor] | None = None,
        prompts: Tensor | None = None,
    ) -> Tensor:
        """Arguments as for `candidates`. Returns the logits (B, h, w) of all masks that count, as one."""
        return self.candidates(images, v, a, features, prompts).union

    def candidates(
        self,
        images: Images,
        v: Tensor,
        a: Tensor,
        features: Sequence[Tensor] | None = None,
        prompts: Tensor | None = None,
    ) -> Candidates:
        """`images`: the segmenter's inputs. v (B, image_width), a (B, audio_width). One prompt for each picture.

        `features`: `segmenter.encode(images)`, if it was computed before; only for a model without adapters, for with
        them it depends on f. `prompts` (B, n, text_width): what else each picture is asked for, before the text tokens.
        """
        assert features is None or self.adapters is None
        text, additions = self.prompt(v, a)
        if features is None:
            features = self.segmenter.encode(images, additions)
        return self.segmenter.decode(images, features, text if prompts is None else torch.cat([prompts, text], dim=1))

    def prompt(self, v: Tensor, a: Tensor) -> tuple[Tensor, list[Tensor] | None]:
        """Text tokens (B, n, text_width), and what the adapters add to each block, (B, C_i)."""
        # What is trained is small and decides: always in fp32, also where autocast is on for the large encoders.
        with torch.autocast(v.device.type, enabled=False):
            f = self.projector.feature(v.float(), a.float())
            return self.prompter.tokens(f), self.adapters(f) if self.adapters is not None else None

    @property
    def says_something(self) -> bool:
        """Whether f changes its text tokens at all: beside a finder's prompts it may not have learnt to, yet."""
        last = self.projector.to_text_space[-1]
        assert isinstance(last, nn.Linear)
        return bool(last.weight.any())

    def recompute(self) -> None:
        """Memory for time: from now on what a gradient needs is computed a second time instead of kept.

        The segmenter's large modules keep their inputs alone. Nothing in them is random.
        """
        for module in self.segmenter.recomputed():
            module.forward = partial(checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False)

    def is_trained(self, name: str) -> bool:
        """Whether the paper trains the tensor of this name in `state_dict` (section 4.1); all others are frozen.

        It is also what a model version stores of its own.
        """
        return name.startswith((*DRAWN, *(f"segmenter.{prefix}" for prefix in self.segmenter.trained)))

    def published_name(self, name: str) -> str:
        """What the authors call the tensor of this name (model hub: Kyungbok/AV2T-SAM)."""
        segmenter = ((f"segmenter.{own}", f"model.{theirs}") for theirs, own in self.segmenter.published_names)
        for own, theirs in (*segmenter, *_AUTHORS_NAMES):
            if name.startswith(own):
                return theirs + name.removeprefix(own)
        return name

    def unread(self, rename: Callable[[str], str]) -> re.Pattern[str]:
        """What the names of tensors begin with, renamed, that weights may hold and this model has no use for."""
        prefixes = [re.escape(rename(f"segmenter.{prefix}")) for prefix in self.segmenter.unread]
        return re.compile("|".join(prefixes)) if prefixes else NOTHING

    def from_checkpoint(self, state: Mapping[str, Tensor], absent: tuple[str, ...] = ()) -> dict[str, Tensor]:
        """The authors' weights under the names of this model, none copied; the model may be on the meta device.

        `absent`: what the names begin with of those that the weights lack as a whole, as EVF-SAM's own lack the
        projector. WeightsError names every key that is missing, unknown or of another shape.
        """
        own = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(absent)}
        unread = self.unread(self.published_name)
        return translate("model", state, own, lambda name: Source(self.published_name(name)), unread)

    def matrices(self) -> Iterator[str]:
        """The names of the weights that bf16 is for: the frozen encoders' matrices and convolutions."""
        for encoder in self.segmenter.halved:
            for name, module in self.get_submodule(f"segmenter.{encoder}").named_modules(prefix=f"segmenter.{encoder}"):
                if isinstance(module, nn.Linear | nn.Conv2d):
                    yield from (f"{name}.{parameter}" for parameter, _ in module.named_parameters())


def lifted(logits: Tensor, reach: float) -> Tensor:
    """Logits (B, h, w), raised where needed so that a mask above 0 holds all that is within `reach` of its peak.

    Of a thing that a model has not met it is less sure, and all the less of its edges: what counts is then how probable
    a pixel is beside the most probable one. A picture with nothing above 0 stays as it is, without a mask.
    """
    peak = logits.amax(dim=(-2, -1), keepdim=True)
    return logits + torch.where(peak > 0, (reach - peak).clamp(min=0), 0)
