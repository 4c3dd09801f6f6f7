"""LAION's own HTSAT, filled by name: what our towers and our readings of published keys are held against."""

import importlib.util
import sys
import warnings
from types import ModuleType

import torch
from torch import Tensor, nn

from tests.data.golden import by_name


def tower() -> nn.Module:
    """HTSAT-tiny of laion_clap.clap_module. Without laion_clap itself, whose import fetches three tokenizers."""
    spec = importlib.util.find_spec("laion_clap")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    shell = ModuleType("laion_clap")
    shell.__path__ = list(spec.submodule_search_locations)
    sys.modules["laion_clap"] = shell
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it speaks to torch and timm in old ways
            from laion_clap.clap_module.htsat import create_htsat_model
            from laion_clap.clap_module.model import CLAPAudioCfp

            config = CLAPAudioCfp(
                model_type="HTSAT",
                model_name="tiny",
                sample_rate=48_000,
                window_size=1024,
                hop_size=480,
                clip_samples=480_000,
            )
            module: nn.Module = create_htsat_model(config)
    finally:
        del sys.modules["laion_clap"]
    filled = {key: by_name_or_own(f"base.htsat.{key}", tensor) for key, tensor in module.state_dict().items()}
    module.load_state_dict(filled)
    return module.eval()


def by_name_or_own(key: str, tensor: Tensor) -> Tensor:
    if any(part in key for part in by_name.CLAP_FIXED):
        return tensor
    return torch.from_numpy(by_name.tensor(key, tuple(tensor.shape)))
