"""What is frozen and therefore the same in every epoch: computed once, and cached on disk.

That is v and a of every frame and, where no adapter adds to SAM's image encoder, all that this gives. (With adapters
nothing of it but the first convolution stays the same, and what that gives is larger than the frame.) An entry is named
by its content: by the clip's files, and by the weights and settings of what computes it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from av2t_core.data.avsbench import DataError, LabelledClip
from av2t_core.files import file_hash
from av2t_core.media.sound import Sound
from av2t_core.model.inputs import to_device
from av2t_core.training.tensor_store import TensorStore
from av2t_core.versions.checkpoint import Loaded


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """Of a clip's n labelled frames: v (n, image_width), a (n, audio_width), and SAM's features (n, ...) or none."""

    v: Tensor
    a: Tensor
    features: list[Tensor] | None


class FrozenResults:
    """Computes them, and caches them where there is a store."""

    def __init__(self, loaded: Loaded, store: TensorStore | None) -> None:
        self.loaded = loaded
        self.store = store
        self._keys_of: dict[LabelledClip, list[str]] = {}
        if store is None:
            return
        self._encoders = _fingerprint(loaded.image_encoder, loaded.audio_encoder)  # type: ignore[arg-type]
        if self._caches_features:
            encoder = _fingerprint(loaded.model.segmenter.image_encoder)
            self._image_encoder = f"{encoder} {loaded.model.config.segmenter} {loaded.precision}"

    @property
    def _caches_features(self) -> bool:
        return self.loaded.model.adapters is None

    def is_cached(self, clip: LabelledClip) -> bool:
        """Whether nothing of it needs to be computed."""
        return self.store is not None and all(key in self.store for key in self._keys(clip))

    def stored(self, clip: LabelledClip) -> Frozen | None:
        """From the store, on the host; None unless all of it is there. May be called from another thread."""
        if self.store is None:
            return None
        keys = self._keys(clip)
        found = [entry for key in keys if (entry := self.store.get(key)) is not None]
        if len(found) < len(keys):
            return None
        embeddings, *levels = found
        features = [entry[str(level)] for entry in levels for level in range(len(entry))]
        return Frozen(v=embeddings["v"], a=embeddings["a"], features=features or None)

    @torch.no_grad()
    def compute(self, clip: LabelledClip, frames: Sequence[NDArray[np.uint8]], sounds: Sequence[Sound]) -> Frozen:
        """From the labelled frames and their seconds; on the model's device, and cached if there is room."""
        loaded = self.loaded
        images = to_device(frames, loaded.device)
        # Cloned, for what the encoders compute in inference mode could not be learned from.
        v = loaded.image_encoder.encode(images).clone()
        a = loaded.audio_encoder.encode(sounds).clone()
        features = None
        if self._caches_features:
            segmenter = loaded.model.segmenter
            with torch.autocast(loaded.device.type, torch.bfloat16, enabled=loaded.precision == "bf16"):
                features = segmenter.encode(segmenter.inputs(segmenter.squares(images)))
        if self.store is not None:
            entries = [{"v": v, "a": a}]
            if features is not None:
                entries.append({str(level): feature for level, feature in enumerate(features)})
            for key, entry in zip(self._keys(clip), entries, strict=True):
                if key not in self.store:
                    self.store.put(key, entry)
        return Frozen(v=v, a=a, features=features)

    def _keys(self, clip: LabelledClip) -> list[str]:
        """Of the embeddings and, where they are cached, of the features."""
        if clip not in self._keys_of:
            try:
                frames = " ".join(file_hash(clip.frames[index]) for index in clip.labelled)
                contents = [f"{self._encoders} {frames} {file_hash(clip.sound)} {clip.labelled}"]
            except OSError as error:
                raise DataError(f"{error.filename} cannot be read ({error.strerror})") from None
            if self._caches_features:
                contents.append(f"{self._image_encoder} {frames}")
            self._keys_of[clip] = [hashlib.sha256(content.encode()).hexdigest() for content in contents]
        return self._keys_of[clip]


def _fingerprint(*modules: nn.Module) -> str:
    """Of the code's version, and of all that these modules hold."""
    digest = hashlib.sha256(version("av2t-sam").encode())
    for module in modules:
        for key, tensor in module.state_dict().items():
            digest.update(key.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
