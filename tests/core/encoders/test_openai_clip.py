"""Against open_clip's own model and transform, with random weights: OpenAI's are not at hand."""

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from open_clip.constants import OPENAI_DATASET_STD
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from av2t_core.encoders.naming import ReadNamer
from av2t_core.encoders.openai_clip import PROMPTS, ClipImageEncoder, inputs
from av2t_core.errors import WeightsError
from av2t_core.model.inputs import to_device


@pytest.fixture(scope="module")
def published() -> nn.Module:
    model: nn.Module = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None)
    return model.eval()


def frames(*sizes: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Blocks of 8 pixels, of colours that leave room for what bicubic overshoots: Pillow clamps between its passes."""
    rng = np.random.default_rng(0)
    return [
        np.kron(rng.integers(48, 208, (-(-h // 8), -(-w // 8), 3)), np.ones((8, 8, 1)))[:h, :w].astype(np.uint8)
        for h, w in sizes
    ]


def as_open_clip_does(frame: NDArray[np.uint8]) -> Tensor:
    transform = open_clip.image_transform(224, is_train=False)
    return transform(Image.fromarray(frame))  # type: ignore[no-any-return]


def test_embeddings_are_open_clips(published: nn.Module) -> None:
    encoder = ClipImageEncoder()
    encoder.load_state_dict(ClipImageEncoder.from_checkpoint(published.state_dict()))
    [frame] = frames((224, 224))
    with torch.no_grad():
        expected = published.encode_image(as_open_clip_does(frame)[None])  # type: ignore[operator]
    v = encoder.encode(to_device([frame], torch.device("cpu")))
    torch.testing.assert_close(v, expected, atol=1e-5, rtol=1e-5)


def test_names_are_read_as_open_clip_reads_them(published: nn.Module) -> None:
    encoder = ClipImageEncoder()
    encoder.load_state_dict(ClipImageEncoder.from_checkpoint(published.state_dict()))
    looks = encoder.read(["electric_guitar", "dog"])
    assert looks.shape == (2, encoder.width)
    for name, look in zip(["electric guitar", "dog"], looks, strict=True):
        tokens = open_clip.get_tokenizer("ViT-B-32-quickgelu")([prompt.format(name) for prompt in PROMPTS])
        with torch.no_grad():
            texts = F.normalize(published.encode_text(tokens), dim=-1)  # type: ignore[operator]
        torch.testing.assert_close(look, F.normalize(texts.mean(dim=0), dim=-1), atol=1e-5, rtol=1e-5)


def test_what_looks_like_a_name_gets_it(published: nn.Module) -> None:
    encoder = ClipImageEncoder()
    encoder.load_state_dict(ClipImageEncoder.from_checkpoint(published.state_dict()))
    names = ["dog", "violin", "steam train"]
    namer = ReadNamer(names, sight=encoder, hearing=None)
    assert namer.labels == tuple(names)
    seen = namer.seen(7 * encoder.read(names))  # the length carries no meaning
    assert seen.argmax(dim=-1).tolist() == [0, 1, 2]
    torch.testing.assert_close(seen.sum(dim=-1), torch.ones(3))
    # It does not hear: of what it hears nothing is less likely, and nothing is silent.
    assert namer.heard(torch.randn(2, 1024)).tolist() == [[1.0] * 3] * 2
    assert namer.silence(torch.randn(2, 1024)).tolist() == [0.0] * 2


def test_a_frame_of_its_size_is_open_clips_input() -> None:
    [frame] = frames((224, 224))
    ours = inputs(to_device([frame], torch.device("cpu")))[0]
    torch.testing.assert_close(ours, as_open_clip_does(frame), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [96, 225, 640, 1080])
def test_other_squares_differ_by_rounding_alone(size: int) -> None:
    [frame] = frames((size, size))
    ours = inputs(to_device([frame], torch.device("cpu")))[0]
    levels = (ours - as_open_clip_does(frame)) * torch.tensor(OPENAI_DATASET_STD)[:, None, None] * 255
    assert levels.abs().max() <= 2


def test_frames_of_any_sizes() -> None:
    encoder = ClipImageEncoder()
    mixed = to_device(frames((90, 160), (300, 200)), torch.device("cpu"))
    v = encoder.encode(mixed)
    assert v.shape == (2, encoder.width) == (2, 512)
    torch.testing.assert_close(v[1:], encoder.encode(mixed[1:]), atol=1e-4, rtol=0)


def test_every_key_is_accounted_for(published: nn.Module) -> None:
    state = published.state_dict()
    with pytest.raises(WeightsError, match=r"\(1 keys\): missing visual\.proj"):
        ClipImageEncoder.from_checkpoint({key: tensor for key, tensor in state.items() if key != "visual.proj"})
    with pytest.raises(WeightsError, match=r"\(1 keys\): unknown visual\.head\.weight"):
        ClipImageEncoder.from_checkpoint({**state, "visual.head.weight": torch.ones(1)})
