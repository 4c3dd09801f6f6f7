"""MS-CLAP's captions' half against the formula, term by term, with drawn weights and a made-up vocabulary.

The authors' own package wants an older transformers; it was compared once (docs/results.md).
"""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.gpt2.configuration_gpt2 import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2Model

from av2t_core.encoders.gpt2 import END, read_merges
from av2t_core.encoders.ms_clap import CaptionEncoder, MsClapAudioEncoder
from av2t_core.encoders.naming import ReadNamer
from av2t_core.model.published_weights import empty_weights
from tests.core.encoders.merges import made_up
from tests.core.encoders.test_gpt2 import theirs

NAMES = ["dog", "Electric_guitar", "a train that is steaming through a very long tunnel", "犬"]
TEXTS = ["dog", "electric guitar", *NAMES[2:]]
SCALE = torch.tensor(3.0)


@pytest.fixture(scope="module")
def encoder(captions: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> MsClapAudioEncoder:
    path = tmp_path_factory.mktemp("gpt2") / "merges.txt"
    path.write_bytes(made_up())
    encoder = MsClapAudioEncoder()
    state = {"logit_scale": SCALE, "captions.merges": read_merges(path)}
    for key in encoder.captions.state_dict():
        if key != "merges":
            state[f"captions.{key}"] = captions[MsClapAudioEncoder.source(f"captions.{key}").key]
    encoder.load_state_dict(encoder.state_dict() | state)
    return encoder


def by_the_formula(text: str, captions: dict[str, Tensor], config: GPT2Config) -> Tensor:
    captions = {key.removeprefix("caption_encoder."): tensor for key, tensor in captions.items()}
    gpt2 = GPT2Model(config).eval()
    gpt2.load_state_dict({k.removeprefix("base."): t for k, t in captions.items() if "base." in k}, strict=False)
    with torch.no_grad():
        x = gpt2(torch.tensor([theirs()(f"{text} {END}")["input_ids"]])).last_hidden_state[0, -1]
    one = captions["projection.linear1.weight"] @ x
    two = one + captions["projection.linear2.weight"] @ F.gelu(one)
    normal = (two - two.mean()) / (two.var(correction=0) + 1e-5).sqrt()
    y = normal * captions["projection.layer_norm.weight"] + captions["projection.layer_norm.bias"]
    return F.normalize(y, dim=0)


def test_names_are_read_by_the_formula_whatever_is_read_beside(
    encoder: MsClapAudioEncoder, captions: dict[str, Tensor]
) -> None:
    read = encoder.read(NAMES)
    assert read.shape == (4, encoder.width)
    config = encoder.captions.gpt2.config
    expected = torch.stack([by_the_formula(f"this is the sound of {text}", captions, config) for text in TEXTS])
    torch.testing.assert_close(read, expected, atol=1e-5, rtol=0)
    assert (expected @ expected.T).fill_diagonal_(0).max() < 0.99  # so they are told apart


def test_a_text_without_end_is_cut(encoder: MsClapAudioEncoder) -> None:
    """GPT-2 has a thousand places."""
    assert encoder.read(["犬" * 2000]).isfinite().all()


def test_what_sounds_like_a_name_gets_it_by_the_published_scale(encoder: MsClapAudioEncoder) -> None:
    namer = ReadNamer(NAMES, sight=encoder, hearing=encoder)
    sounds = encoder.read(NAMES)
    heard = namer.heard(5 * sounds)  # the length carries no meaning
    torch.testing.assert_close(heard, (SCALE.exp() * sounds @ sounds.T).softmax(dim=-1))
    assert heard.argmax(dim=-1).tolist() == [0, 1, 2, 3]


def test_gpt2_is_the_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As openai-community/gpt2 is."""
    monkeypatch.setattr("transformers.models.gpt2.configuration_gpt2.GPT2Config", GPT2Config)
    with empty_weights():
        encoder = CaptionEncoder()
    assert sum(parameter.numel() for parameter in encoder.gpt2.parameters()) == 124_439_808
    shapes = {key: tuple(tensor.shape) for key, tensor in encoder.gpt2.state_dict().items()}
    assert shapes["wte.weight"] == (50_257, 768)
    assert shapes["wpe.weight"] == (1024, 768)
    assert shapes["h.11.attn.c_attn.weight"] == (768, 2304)
    assert encoder.projection.linear1.weight.shape == (1024, 768)
    assert not list(encoder.gpt2.buffers())  # so nothing of it takes memory before it is filled
