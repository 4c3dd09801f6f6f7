"""The published encoders' architectures with random weights: no hub is reachable here, so their numbers are not."""

import subprocess
import sys

import numpy as np
import torch

from av2t_core.encoders import AudioEncoder, ImageEncoder
from av2t_core.encoders.clip import ClipImageEncoder
from av2t_core.encoders.laion_clap import LaionClapAudioEncoder
from av2t_core.soundtrack import Sound


def test_clip_takes_frames_of_any_size() -> None:
    encoder: ImageEncoder = ClipImageEncoder()
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((90, 160), (300, 200))]
    v = encoder.encode(frames)
    assert v.shape == (2, encoder.width) == (2, 512)
    assert torch.allclose(v[1:], encoder.encode(frames[1:]), atol=1e-4)


def test_laion_clap_takes_windows_of_any_rate() -> None:
    encoder: AudioEncoder = LaionClapAudioEncoder()
    rng = np.random.default_rng(0)
    sounds = [
        Sound.alone(rng.normal(0, 0.1, (channels, rate)).astype(np.float32), rate)
        for channels, rate in ((1, 22_050), (2, 22_050), (6, 48_000))
    ]
    a = encoder.encode([*sounds, Sound(samples=np.zeros((1, 0), np.float32), rate=0)])
    assert a.shape == (4, encoder.width) == (4, 512)
    assert torch.allclose(a.norm(dim=-1), torch.ones(4))


def test_laion_clap_takes_its_own_keys() -> None:
    first, second = LaionClapAudioEncoder(), LaionClapAudioEncoder()
    second.load_state_dict(first.state_dict())
    assert {key.split(".")[0] for key in first.state_dict()} == {"audio_branch", "audio_projection"}


def test_importing_laion_clap_asks_no_network() -> None:
    code = """
import socket
def refuse(*args, **kwargs): raise AssertionError("a connection was tried")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from av2t_core.encoders.laion_clap import LaionClapAudioEncoder
LaionClapAudioEncoder()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
