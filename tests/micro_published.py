"""The published presets at the size of the reference's micro models, and files as they are published of them.

The real ones are gigabytes; but for numbers of layers and widths, all that reads them is the same. `install` shrinks
what presets and encoders are made with.
"""

import io
from collections import defaultdict
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import pytest
import torch
from open_clip.transformer import TextTransformer, VisionTransformer
from safetensors.torch import save
from torch import Tensor, nn
from transformers.models.clap.configuration_clap import ClapAudioConfig
from transformers.models.gpt2.configuration_gpt2 import GPT2Config

from av2t_core.encoders import gpt2, htsat, laion_clap, ms_clap, openai_clip
from av2t_core.model.av2t_sam import AV2TSam
from av2t_core.model.config import Feature
from av2t_core.model.presets import PRESETS, segmenter
from av2t_core.model.published_weights import Source
from av2t_core.versions.state_file import read_state_file
from tests.core.encoders.merges import made_up
from tests.core.model.micro import MICRO, SEGMENTERS, VOCABULARY, complete, reference_weights

AUTHORS = "Kyungbok/AV2T-SAM"
CLIP = "timm/vit_base_patch32_clip_224.openai"
MS_CLAP = "microsoft/msclap"
GPT2 = "openai-community/gpt2"
LAION_CLAP = "lukewys/laion_clap"
EVF_SAM2 = "YxZhang/evf-sam2-multitask"

SAM2 = MICRO["evf_sam2"]


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("clap.modeling_clap", "gpt2.modeling_gpt2"):
        import_module(f"transformers.models.{module}")  # what is replaced below stands in its annotations
    for name, backbone in (("evf-sam2", "evf_sam2"), ("evf-sam1", "evf_sam")):
        monkeypatch.setitem(segmenter(name).sizes, "large", SEGMENTERS[backbone])  # type: ignore[index]
    small_vit = lambda **sizes: VisionTransformer(**{**sizes, "width": 32, "layers": 1, "heads": 2})  # noqa: E731
    monkeypatch.setattr("open_clip.transformer.VisionTransformer", small_vit)
    small_text = lambda **sizes: TextTransformer(**{**sizes, "width": 32, "layers": 1, "heads": 2})  # noqa: E731
    monkeypatch.setattr("open_clip.transformer.TextTransformer", small_text)
    small_htsat = partial(
        ClapAudioConfig,
        patch_embeds_hidden_size=8,
        hidden_size=64,
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
    )
    monkeypatch.setattr("transformers.models.clap.configuration_clap.ClapAudioConfig", small_htsat)
    monkeypatch.setattr(htsat, "WIDTH", 64)
    monkeypatch.setattr(
        "transformers.models.gpt2.configuration_gpt2.GPT2Config", partial(GPT2Config, n_embd=8, n_layer=1, n_head=2)
    )


@cache
def av2t_sam(preset: str = "sam2-l", feature: Feature = "mul", seed: int = 0) -> dict[str, Tensor]:
    """The authors' state dict, complete; of another seed only what is trained differs."""
    config = complete(PRESETS[preset].config(feature), VOCABULARY)
    state = reference_weights(AV2TSam(config))
    return {key: tensor + seed if key.startswith("projector.") else tensor for key, tensor in state.items()}


def evf_sam(preset: str = "sam2-l") -> dict[str, Tensor]:
    """EVF-SAM's own, in half precision, as one of the two is published."""
    return {k.removeprefix("model."): t.half() for k, t in av2t_sam(preset).items() if k.startswith("model.")}


@cache
def clip_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    state = openai_clip.ClipImageEncoder().state_dict()
    return {**{key.removeprefix("text."): tensor for key, tensor in state.items()}, "logit_scale": torch.tensor(1.0)}


@cache
def ms_clap_state() -> dict[str, Tensor]:
    """CLAP_weights_2023.pth, with a mask that transformers stored in its day."""
    torch.manual_seed(0)
    state = _as_published(ms_clap.MsClapAudioEncoder(), ms_clap.MsClapAudioEncoder.source)
    del state[gpt2.FILE]
    return {**state, "caption_encoder.base.h.0.attn.bias": torch.ones(1, 1, 1024, 1024).tril()}


@cache
def merges() -> bytes:
    return made_up()


def ms_clap_with_merges() -> dict[str, Tensor]:
    """As it is read from both files."""
    with NamedTemporaryFile() as file:
        file.write(merges())
        file.flush()
        return {**ms_clap_state(), **read_state_file(Path(file.name))}


@cache
def laion_clap_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    text = {"text_branch.embeddings.word_embeddings.weight": torch.ones(2, 2)}
    return {**_as_published(laion_clap.LaionClapAudioEncoder(), laion_clap.LaionClapAudioEncoder.source), **text}


def _as_published(encoder: nn.Module, source: Callable[[str], Source]) -> dict[str, Tensor]:
    parts: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for key, tensor in encoder.state_dict().items():
        parts[source(key).key][source(key).part] = tensor
    return {
        key: torch.cat([some[i] for i in sorted(some)]) if len(some) > 1 else some[0] for key, some in parts.items()
    }


def pickled(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@cache
def repositories() -> dict[str, dict[str, bytes]]:
    """The hub's, with what `av2t weights pull` looks for in them and other files. After `install`."""
    parallel = {f"module.{key}": tensor for key, tensor in av2t_sam().items()}
    state = {f"module.{key}": tensor for key, tensor in laion_clap_state().items()}
    training = {"epoch": 3, "best": np.float64(0.5), "state_dict": state}
    evf = evf_sam()
    half = len(evf) // 2
    shards = [dict(list(evf.items())[:half]), dict(list(evf.items())[half:])]
    return {
        AUTHORS: {
            "README.md": b"# AV2T-SAM",
            "avt_mul_adapter_evf_sam2_ms3_best.pth": pickled(parallel),
            "avt_mul_adapter_evf_sam2_s4_best.pth": pickled(av2t_sam(seed=1)),
            "avt_mul_evf_sam2_s4_best.pth": pickled(av2t_sam("sam2-l-noadapter")),
        },
        CLIP: {"open_clip_model.safetensors": save(clip_state()), "open_clip_config.json": b"{}"},
        MS_CLAP: {"CLAP_weights_2023.pth": pickled({"model": ms_clap_state()}), "CLAP_weights_2022.pth": b"x"},
        GPT2: {"merges.txt": merges(), "vocab.json": b"{}", "model.safetensors": b"x"},
        LAION_CLAP: {"630k-audioset-best.pt": pickled(training), "630k-best.pt": b"x"},
        EVF_SAM2: {f"model-{i:05}-of-00002.safetensors": save(shard) for i, shard in enumerate(shards, 1)},
    }
