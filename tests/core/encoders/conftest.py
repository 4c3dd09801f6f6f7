from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gpt2.configuration_gpt2 import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2Model

from av2t_core.versions.checkpoint import Loaded, load_version
from av2t_core.versions.version import resolve
from tests.core.encoders import laion


@pytest.fixture(scope="session")
def laion_tower() -> nn.Module:
    return laion.tower()


@pytest.fixture(scope="module")
def captions() -> Iterator[dict[str, Tensor]]:
    """MS-CLAP's captions' half as the authors' file has it, but with a GPT-2 of two layers, which MsClapAudioEncoder is
    then made with, too; with the masks that older releases of transformers stored."""
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4)
    state = {
        f"base.{k}": tensor + 0.2 * torch.randn(tensor.shape) for k, tensor in GPT2Model(config).state_dict().items()
    }
    state |= {f"base.h.{layer}.attn.bias": torch.ones(1, 1, 1024, 1024) for layer in (0, 1)}
    state |= {f"base.h.{layer}.attn.masked_bias": torch.tensor(-1e4) for layer in (0, 1)}
    shapes = {
        "linear1.weight": (1024, 32),
        "linear2.weight": (1024, 1024),
        "layer_norm.weight": (1024,),
        "layer_norm.bias": (1024,),
    }
    state |= {f"projection.{key}": torch.randn(shape) for key, shape in shapes.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.models.gpt2.configuration_gpt2.GPT2Config", lambda: config)
        yield {f"caption_encoder.{key}": tensor for key, tensor in state.items()}


@pytest.fixture(scope="session")
def small() -> Loaded:
    """The embedded version of the preset `small`."""
    return load_version(resolve("small"), torch.device("cpu"))
