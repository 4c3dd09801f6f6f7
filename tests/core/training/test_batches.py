"""Order and shares of the clips, and the tensors that they become."""

from pathlib import Path

import pytest
import torch

from av2t_core.data.avsbench import LabelledClip, read_clips
from av2t_core.training.batches import batches, inputs, read
from av2t_core.training.frozen import FrozenResults, TensorStore
from av2t_core.training.train import load_start
from av2t_core.versions.version import resolve_start
from tests.core.avsbench_sets import compose_set


def clip(name: str, labelled: int = 5) -> LabelledClip:
    path = Path(name)
    masks = tuple(path if index < labelled else None for index in range(5))
    return LabelledClip(video=name, category="", split="train", frames=(path,) * 5, masks=masks, sound=path)


CLIPS = [clip(f"c{index}") for index in range(11)]


def shares(
    process: int = 0, processes: int = 1, parts: int = 1, epoch: int = 0, seed: int = 1
) -> list[list[list[str]]]:
    found = batches(CLIPS, epoch, size=4, seed=seed, process=process, processes=processes, parts=parts)
    return [[[c.video for c in part] for part in share.parts] if share.counts else [] for share in found]


def test_an_epoch_has_every_clip_once_in_an_order_of_its_own() -> None:
    epochs = [[name for share in shares(epoch=epoch) for part in share for name in part] for epoch in (0, 1)]
    assert all(sorted(names) == sorted(c.video for c in CLIPS) for names in epochs)
    assert epochs[0] != epochs[1]
    assert shares(epoch=1) == shares(epoch=1)
    assert shares(seed=2) != shares(seed=1)
    assert [len(share[0]) for share in shares()] == [4, 4, 3]


@pytest.mark.parametrize(("processes", "parts"), [(1, 3), (2, 1), (2, 2), (3, 1), (4, 5), (5, 1)])
def test_processes_and_parts_share_each_batch(processes: int, parts: int) -> None:
    whole = [{name for part in share for name in part} for share in shares()]
    of_each = [shares(process, processes, parts) for process in range(processes)]
    for number, batch in enumerate(whole):
        together = [name for each in of_each for part in each[number] for name in part]
        assert sorted(together) == sorted(batch)


def test_who_has_no_clip_of_a_batch_takes_part_and_does_not_count() -> None:
    [*_, last] = batches(CLIPS, 0, size=5, seed=1, process=3, processes=4, parts=2)
    assert (last.counts, [len(part) for part in last.parts]) == (False, [1])


def test_the_frames_of_a_batch_are_those_with_a_mask() -> None:
    [share] = batches([clip("a", 1), clip("b", 5)], 0, size=4, seed=1, process=1, processes=2, parts=1)
    assert share.frames == 6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compose_set(tmp_path_factory.mktemp("data"), "s4", 3, shares=(34, 33, 33))


def test_the_first_frame_of_a_training_clip_of_s4_with_its_own_second(data: Path) -> None:
    [training], [validation] = (read_clips(data, "s4", split) for split in ("train", "val"))
    start = resolve_start("tiny", None, data)
    results = FrozenResults(load_start(start, "tiny", "mul", 0, torch.device("cpu"), "fp32"), None)
    reads = [read(training, results), read(validation, results)]
    given = inputs(reads, results)
    assert given.target.shape == (6, 224, 224)
    assert set(given.target.flatten().tolist()) == {0, 1}
    assert given.names == (training.video, *[validation.video] * 5)
    assert given.images["sam"].shape == (6, 3, 256, 256)
    assert (given.v.shape, given.a.shape) == ((6, 256), (6, 256))
    assert len(reads[1].sounds) == 5


@pytest.mark.parametrize("preset", ["tiny", "tiny-noadapter"])
def test_frozen_results_are_computed_once_and_named_by_content(data: Path, tmp_path: Path, preset: str) -> None:
    [validation] = read_clips(data, "s4", "val")
    loaded = load_start(resolve_start(preset, None, data), preset, "mul", 0, torch.device("cpu"), "fp32")
    results = FrozenResults(loaded, TensorStore(tmp_path, 10**9))
    assert not results.is_cached(validation)
    first = inputs([read(validation, results)], results)
    assert results.is_cached(validation)
    again = read(validation, results)
    assert (again.frozen is not None, again.sounds) == (True, [])
    second = inputs([again], results)
    assert torch.equal(second.v, first.v)
    assert torch.equal(second.a, first.a)
    assert len(list(tmp_path.glob("??/*"))) == (1 if preset == "tiny" else 2)
    if preset == "tiny":
        assert second.features is None
    else:
        assert "sam" not in second.images
        assert first.features is not None
        assert second.features is not None
        assert [feature.shape for feature in second.features] == [(5, 128, 64, 64), (5, 128, 32, 32), (5, 128, 16, 16)]
        assert all(torch.equal(a, b) for a, b in zip(first.features, second.features, strict=True))

    sound = tmp_path / "other.wav"
    sound.write_bytes(next(data.glob("**/train/**/*.wav")).read_bytes())
    moved = LabelledClip(**{**vars(validation), "sound": sound})
    assert not results.is_cached(moved)
    other = FrozenResults(
        load_start(resolve_start(preset, None, data), preset, "clip", 5, torch.device("cpu"), "fp32"),
        TensorStore(tmp_path, 10**9),
    )
    assert other.is_cached(validation)  # what is drawn anew is no part of what is frozen
    with torch.no_grad():
        next(other.loaded.image_encoder.parameters()).add_(1)  # type: ignore[attr-defined]
    assert not FrozenResults(other.loaded, other.store).is_cached(validation)
