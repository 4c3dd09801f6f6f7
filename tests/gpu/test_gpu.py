"""On a real GPU: `make test-gpu`, a few minutes on a machine that has one. The other tests never need one."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from redis import Redis
from torch import nn

from av2t.commands.bench import DEMO_CLIP
from av2t_core.errors import MemoryShortError
from av2t_core.finetuning.fine_tuning import FineTuneRecipe, FineTuning
from av2t_core.media.clip import Clip, Window
from av2t_core.prediction.predictor import KeyframePrediction, Predictor
from av2t_core.training.run_folder import RunFolder
from av2t_core.versions.checkpoint import build, load_version, randomise
from av2t_core.versions.version import resolve
from tests.conftest import wait_until
from tests.core.finetuning.test_fine_tuning import examples, learn
from tests.core.model.micro import BACKBONES, Backbone, difference, golden, inputs, micro, results
from worker.process.memory import gpu_lease, gpu_of, lease_key

pytestmark = pytest.mark.gpu

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def _gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")


@pytest.fixture(scope="module")
def windows() -> list[Window]:
    with Clip(DEMO_CLIP) as clip:
        return list(clip.windows())


@pytest.fixture
def memory_bound() -> Iterator[None]:
    """The test may bound what this process has of the GPU."""
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_reference_s_numbers(backbone: Backbone) -> None:
    """Convolutions round to TF32 on a GPU, as torch has it."""
    images, v, a = inputs()
    found = results(
        micro(backbone).to(GPU), ({name: image.to(GPU) for name, image in images.items()}, v.to(GPU), a.to(GPU))
    )
    row = "mul_adapter/"
    differences = {
        name.removeprefix(row): difference(found[name.removeprefix(row)].cpu(), theirs)
        for name, theirs in golden(backbone).items()
        if name.startswith(row)
    }
    print(f"\n{backbone}: " + ", ".join(f"{name} {value:.1e}" for name, value in differences.items()))
    assert max(differences.values()) < 5e-3


def test_the_embedded_model_says_what_it_says_on_a_cpu(windows: list[Window]) -> None:
    there, here = (list(Predictor.load("tiny", device).predict(windows)) for device in ("cuda", "cpu"))
    agreement = [float((a.mask == b.mask).mean()) for a, b in zip(there, here, strict=True)]
    scores = [abs(a.score - b.score) for a, b in zip(there, here, strict=True)]
    print(f"\nleast agreement {min(agreement):.5f}, largest difference of a score {max(scores):.4f}")
    assert min(agreement) > 0.998
    assert max(scores) < 0.01
    assert [names(each) for each in there] == [names(each) for each in here]


def names(prediction: KeyframePrediction) -> list[str]:
    return sorted(max(thing.names, key=lambda name: thing.names[name]) for thing in prediction.objects)


@pytest.mark.parametrize("preset", ["sam2-l", "sam1-h"])
def test_the_fast_road_gives_what_the_plain_one_gives(preset: str) -> None:
    """With drawn weights, at full size: fused attention in fp32 and bf16 against attention that is written out."""
    loaded = randomise(build(preset), GPU, "fp32")
    config, generator = loaded.model.config, torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(2, *shape, generator=generator).to(GPU)

    images = {"sam": noise(3, 1024, 1024), "multimodal": noise(3, 224, 224)}
    v, a = noise(config.image_width), noise(config.audio_width)

    def logits() -> torch.Tensor:
        return loaded.model.candidates(images, v, a).union.float()

    with torch.inference_mode():
        with loaded.model.segmenter.plain_attention():
            plain = logits()
        fused = logits()
        for name in list(loaded.model.matrices()):
            module = loaded.model.get_submodule(name.rpartition(".")[0])
            leaf = name.rpartition(".")[2]
            setattr(module, leaf, nn.Parameter(module.get_parameter(leaf).bfloat16(), requires_grad=False))
        with torch.autocast("cuda", torch.bfloat16):
            narrow = logits()
    size = float(plain.norm())
    apart = {"fused, fp32": float((fused - plain).norm()) / size, "fused, bf16": float((narrow - plain).norm()) / size}
    print(f"\n{preset}: relative difference of the mask's logits from plain fp32: {apart}")
    assert apart["fused, fp32"] < 5e-3
    assert apart["fused, bf16"] < 0.2


@pytest.mark.usefixtures("memory_bound")
def test_a_batch_that_does_not_fit_is_halved(windows: list[Window]) -> None:
    predictor = Predictor.load("tiny", "cuda", batch_size=16)
    many = (windows * 8)[:32]
    expected = list(predictor.predict(many))
    torch.cuda.empty_cache()
    peaks = {}
    for size in (1, 16):
        torch.cuda.reset_peak_memory_stats()
        list(Predictor("tiny", predictor.loaded, batch_size=size).predict(many[:size]))
        peaks[size] = torch.cuda.max_memory_reserved()
        torch.cuda.empty_cache()
    bound((peaks[1] + peaks[16]) // 2)
    small = Predictor("tiny", predictor.loaded, batch_size=16)
    found = list(small.predict(many))
    assert 1 <= small.batch_size < 16
    assert all(float((a.mask == b.mask).mean()) > 0.998 for a, b in zip(found, expected, strict=True))

    torch.cuda.empty_cache()
    bound(torch.cuda.memory_reserved())
    with pytest.raises(MemoryShortError, match=r"one keyframe of 480 x 270 pixels needs more memory than cuda"):
        list(small.predict(many))
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(list(small.predict(many))) == len(many)  # what did not fit has left nothing behind


def bound(bytes: int) -> None:
    torch.cuda.set_per_process_memory_fraction(bytes / torch.cuda.get_device_properties(0).total_memory)


def hold(ready: Event, leave: Event) -> None:
    """Half of the GPU's free memory, until it is asked for."""
    held = torch.empty(torch.cuda.mem_get_info()[0] // 2, dtype=torch.uint8, device="cuda")
    ready.set()
    leave.wait(120)
    del held


def test_a_training_waits_for_the_memory_that_another_process_holds(redis: Redis) -> None:
    gpu = gpu_of("auto")
    assert gpu is not None
    free = gpu.free()
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    other = context.Process(target=hold, args=(ready, leave))
    other.start()
    try:
        assert ready.wait(120)
        assert gpu.free() < 0.6 * free
        with gpu_lease(redis, gpu, needed=free // 4):
            assert not redis.exists(lease_key(gpu.uuid))  # there is room for both
        watcher = context.Process(target=leave_for_lease, args=(redis_address(redis), lease_key(gpu.uuid), leave))
        watcher.start()
        with gpu_lease(redis, gpu, needed=int(0.9 * free)):
            assert redis.exists(lease_key(gpu.uuid))
            assert gpu.free() >= 0.9 * free
        watcher.join(60)
    finally:
        leave.set()
        other.join(60)
    assert not redis.exists(lease_key(gpu.uuid))


def redis_address(redis: Redis) -> tuple[str, int]:
    chosen = redis.connection_pool.connection_kwargs
    return chosen["host"], chosen["port"]


def leave_for_lease(address: tuple[str, int], key: str, leave: Event) -> None:
    """As a worker that pre-annotates does: once the GPU is leased, it lets go."""
    with Redis(*address) as client:
        wait_until(lambda: bool(client.exists(key)), what="the lease")
    leave.set()


def test_every_process_knows_a_gpu_by_the_same_number() -> None:
    gpu = gpu_of("cuda:0")
    assert gpu is not None
    script = "from worker.process.memory import gpu_of; print(gpu_of('auto').uuid)"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == gpu.uuid


def test_what_is_learnt_is_what_a_cpu_learns(tmp_path: Path) -> None:
    recipe = FineTuneRecipe(epochs=3, batch=2)
    learnt: dict[str, dict[str, NDArray[np.float32]]] = {}
    losses = {}
    for device in ("cpu", "cuda"):
        loaded = load_version(resolve("tiny"), torch.device(device))
        (tmp_path / device).mkdir()
        tuning = FineTuning(loaded, [examples(loaded)], None, recipe, RunFolder(tmp_path / device))
        losses[device] = [at.loss for at in learn(tuning)]
        learnt[device] = {name: tensor.cpu().numpy() for name, tensor in tuning.learned.items()}
    print("\n" + json.dumps(losses))
    assert np.allclose(losses["cpu"], losses["cuda"], rtol=0.02)
