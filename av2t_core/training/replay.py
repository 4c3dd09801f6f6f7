"""A replay of what a model version learned before: embeddings of a fixed sample of its training's frames and sounds.

    <version>/replay.safetensors    v (n, image_width) and a (n, audio_width) of n windows, halves; the card has a hash

A fine-tuning changes the projector and the adapters alone. Where the text tokens and the adapters' additions of an
embedding stay, so does the mask; hence the replay needs no pictures.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from av2t_core.errors import WeightsError
from av2t_core.files import check_header, file_hash
from av2t_core.model.av2t_sam import AV2TSam
from av2t_core.versions.names import REPLAY_FILE
from av2t_core.versions.version import Version

WINDOWS = 600

_LEAST = 0.01  # the mean square by which an output that says nothing yet is measured


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Embeddings of n windows."""

    v: Tensor  # (n, image_width)
    a: Tensor  # (n, audio_width)


def keep(path: Path, replay: Replay) -> str:
    """Write the set; its sha256, for the card."""
    save_file({"v": replay.v.half().cpu().contiguous(), "a": replay.a.half().cpu().contiguous()}, path)
    path.chmod(0o644)
    return file_hash(path)


def replay_of(version: Version) -> Replay | None:
    """The set of the version, or of what it loads onto; None where there is none. WeightsError: it is damaged."""
    for each in version.chain:
        if sha256 := each.card.replay_sha256:
            path = each.directory / REPLAY_FILE
            try:
                if file_hash(path) != sha256:
                    raise each.damaged(path)
                check_header(path)
                return Replay(**{name: tensor.float() for name, tensor in load_file(path).items()})
            except (OSError, SafetensorError, TypeError) as error:
                raise WeightsError(f"{path} cannot be read ({error}); {each.remedy}") from None
    return None


class Drift:
    """How far a model that learns has drifted, on a replay, from its outputs when this was made."""

    def __init__(self, model: AV2TSam, replay: Replay) -> None:
        device = next(model.parameters()).device
        self._model, self._v, self._a = model, replay.v.to(device), replay.a.to(device)
        with torch.no_grad():
            self._before = self._outputs()
        self._sizes = [output.square().mean().clamp(min=_LEAST) for output in self._before]

    def __call__(self) -> Tensor:
        """The mean square change of the text tokens and of each block's additions, as a share of their mean square."""
        each = zip(self._outputs(), self._before, self._sizes, strict=True)
        return torch.stack([(now - before).square().mean() / size for now, before, size in each]).mean()

    def _outputs(self) -> list[Tensor]:
        f = self._model.projector.feature(self._v, self._a)
        additions = self._model.adapters(f) if self._model.adapters is not None else []
        return [self._model.projector.tokens(f), *additions]
