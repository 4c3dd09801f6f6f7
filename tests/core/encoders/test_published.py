"""What holds for all encoders whose weights others publish."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from av2t_core.encoders.laion_clap import LaionClapAudioEncoder
from av2t_core.encoders.ms_clap import MsClapAudioEncoder
from av2t_core.encoders.openai_clip import ClipImageEncoder
from av2t_core.media.sound import Sound
from av2t_core.model.published_weights import empty_weights

ENCODERS = (ClipImageEncoder, MsClapAudioEncoder, LaionClapAudioEncoder)


@pytest.mark.parametrize("kind", ENCODERS)
def test_weights_can_be_put_into_an_empty_one(kind: type[nn.Module]) -> None:
    filled = kind()
    with empty_weights():
        empty = kind()
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
    empty.load_state_dict(filled.state_dict(), assign=True)
    if isinstance(empty, ClipImageEncoder):
        images = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
        results = [encoder.encode(images) for encoder in (filled, empty)]  # type: ignore[operator]
    else:
        sounds = [Sound.alone(torch.randn(1, 16_000).numpy(), 16_000)]
        results = [encoder.encode(sounds) for encoder in (filled, empty)]  # type: ignore[operator]
    torch.testing.assert_close(*results)


def test_no_network_is_asked_to_build_to_load_and_to_read() -> None:
    code = """
import socket
def refuse(*args, **kwargs): raise AssertionError("a connection was tried")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import torch
from av2t_core.encoders import gpt2
from av2t_core.encoders.openai_clip import ClipImageEncoder
from av2t_core.encoders.laion_clap import LaionClapAudioEncoder
from av2t_core.encoders.ms_clap import MsClapAudioEncoder
from av2t_core.model.presets import PRESETS
from av2t_core.prediction.predictor import Predictor
from av2t_core.versions.checkpoint import build
ClipImageEncoder().read(["dog"]), LaionClapAudioEncoder(), MsClapAudioEncoder()
gpt2.tokenizer(torch.tensor([[0, 1]]), "!").encode("dog")
for preset in PRESETS:
    build(preset)
Predictor.load("tiny", "cpu")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
