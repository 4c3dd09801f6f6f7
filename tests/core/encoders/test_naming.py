"""Names that are read, by encoders that stand in for CLIP and MS-CLAP."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from av2t_core.encoders.naming import ReadNamer
from av2t_core.versions.checkpoint import Loaded, build

NAMES = ("bee", "fly", "dog")


class Texts:
    """Reads each name as the row of `rows` that is its."""

    slope = 10.0

    def __init__(self, rows: Sequence[Sequence[float]]) -> None:
        self.rows = torch.tensor(rows)
        self.width = self.rows.shape[1]
        self.asked: list[tuple[str, ...]] = []

    def read(self, names: Sequence[str]) -> Tensor:
        self.asked.append(tuple(names))
        return self.rows[: len(names)]

    def encode(self, _: object) -> Tensor:
        raise NotImplementedError


class Deaf:
    """An audio encoder that cannot read, as LAION-CLAP's."""

    width = 3

    def encode(self, _: object) -> Tensor:
        raise NotImplementedError


def sight() -> Texts:
    """To which a bee and a fly look the same."""
    return Texts([[1, 0, 0], [1, 0, 0], [0, 0, 1]])


def hearing() -> Texts:
    return Texts([[1, 0, 0], [0, 1, 0], [0, 1, 0]])


def loaded(audio: Texts | Deaf) -> Loaded:
    return replace(build("tiny"), image_encoder=sight(), audio_encoder=audio, namer=None)


def test_hearing_decides_between_what_looks_alike_and_sight_between_what_sounds_alike() -> None:
    namer = ReadNamer(NAMES, sight=sight(), hearing=hearing())
    assert namer.labels == NAMES
    insect, buzz, other = torch.tensor([[2.0, 0, 0]]), torch.tensor([[5.0, 0, 0]]), torch.tensor([[0, 5.0, 0]])
    bee, fly, dog = namer.seen(insect)[0]
    assert bee == fly > 100 * dog
    assert namer.heard(other)[0, 1] == namer.heard(other)[0, 2]
    for sound, name in ((buzz, "bee"), (other, "fly")):
        both = (namer.heard(sound) * namer.seen(insect))[0]
        assert NAMES[both.argmax()] == name
        assert both.sort().values[1] < 1e-3 < both.max()
        torch.testing.assert_close(namer.heard(sound).sum(), torch.tensor(1.0))


def test_what_cannot_be_heard_by_name_is_named_by_sight_alone() -> None:
    namer = loaded(Deaf()).namer_for(NAMES)
    assert namer is not None
    assert namer.heard(torch.randn(2, 3)).tolist() == [[1.0] * 3] * 2
    assert namer.silence(torch.randn(2, 3)).tolist() == [0.0] * 2
    assert loaded(hearing()).namer_for(()) is None


def test_names_are_read_once_for_many_jobs() -> None:
    ears = hearing()
    model = loaded(ears)
    first = model.namer_for(NAMES)
    assert model.namer_for(list(NAMES)) is first
    assert model.namer_for(NAMES[::-1]) is not first
    for number in range(13):
        model.namer_for([f"thing {number}"])
    assert model.namer_for(NAMES) is first
    for number in range(13, 26):
        model.namer_for([f"thing {number}"])
    assert model.namer_for(NAMES) is first
    assert ears.asked.count(NAMES) == 1
    for number in range(26, 42):
        model.namer_for([f"thing {number}"])
    assert model.namer_for(NAMES) is not first
    assert model._read.cache_info().currsize == 16


@pytest.mark.parametrize("names", [(), NAMES])
def test_a_model_with_names_of_its_own_reads_none(names: tuple[str, ...]) -> None:
    own = ReadNamer(("cat",), sight=sight(), hearing=None)
    assert replace(loaded(hearing()), namer=own).namer_for(names) is own
