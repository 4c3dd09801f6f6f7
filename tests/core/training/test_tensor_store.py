"""The bounded store of tensors, on a real disk."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from av2t_core.errors import WeightsError
from av2t_core.training.frozen import TensorStore

ENTRY = 4000  # bytes of `tensors`, without what a file has around them
LONG_AGO = 1_000_000_000


def tensors(value: float) -> dict[str, Tensor]:
    return {"a": torch.full((1000,), float(value))}


def key(number: int) -> str:
    return f"{number:08x}" * 8


def room_for(entries: int) -> int:
    return entries * (ENTRY + 500)


def age(folder: Path) -> None:
    """As if all of it had been used by an earlier training, higher keys later."""
    for path in folder.glob("??/*"):
        when = LONG_AGO + int(path.stem[:8], 16)
        os.utime(path, (when, when))


def test_what_was_kept_is_there_for_the_next_one_too(tmp_path: Path) -> None:
    TensorStore(tmp_path, room_for(2)).put(key(1), tensors(1))
    store = TensorStore(tmp_path, room_for(2))
    found = store.get(key(1))
    assert found is not None
    assert torch.equal(found["a"], tensors(1)["a"])
    assert key(1) in store
    assert key(2) not in store
    assert store.get(key(2)) is None


def test_it_never_grows_beyond_its_limit(tmp_path: Path) -> None:
    store = TensorStore(tmp_path, room_for(2))
    for number in range(5):
        store.put(key(number), tensors(number))
    assert [number for number in range(5) if key(number) in store] == [0, 1]
    assert sum(path.stat().st_size for path in tmp_path.glob("??/*")) <= room_for(2)


def test_what_nobody_uses_any_more_makes_room_and_the_oldest_first(tmp_path: Path) -> None:
    first = TensorStore(tmp_path, room_for(3))
    for number in range(3):
        first.put(key(number), tensors(number))
    age(tmp_path)
    later = TensorStore(tmp_path, room_for(3))
    assert later.get(key(0)) is not None  # the oldest, but in use
    for number in (3, 4, 5):
        later.put(key(number), tensors(number))
    assert [number for number in range(6) if key(number) in later] == [0, 3, 4]


def test_a_smaller_limit_drops_what_is_too_much(tmp_path: Path) -> None:
    first = TensorStore(tmp_path, room_for(3))
    for number in range(3):
        first.put(key(number), tensors(number))
    age(tmp_path)
    TensorStore(tmp_path, room_for(1)).put(key(7), tensors(7))
    assert [path.stem for path in tmp_path.glob("??/*")] == [key(7)]


def test_processes_share_what_is_free_and_what_may_be_dropped(tmp_path: Path) -> None:
    stores = [TensorStore(tmp_path, room_for(4), process=index, processes=2) for index in range(2)]
    for number in range(8):
        stores[number % 2].put(key(number), tensors(number))
    assert len(list(tmp_path.glob("??/*"))) == 4
    age(tmp_path)
    again = [TensorStore(tmp_path, room_for(4), process=index, processes=2) for index in range(2)]
    for number in range(8, 16):
        again[number % 2].put(key(number), tensors(number))
    assert sorted(int(path.stem[:8], 16) for path in tmp_path.glob("??/*")) == [8, 9, 10, 11]


def test_what_another_process_has_used_since_is_not_dropped(tmp_path: Path) -> None:
    TensorStore(tmp_path, room_for(1)).put(key(0), tensors(0))
    age(tmp_path)
    one, other = (TensorStore(tmp_path, room_for(1)) for _ in range(2))
    assert other.get(key(0)) is not None
    one.put(key(1), tensors(1))
    assert key(0) in one
    assert key(1) not in one


def test_a_damaged_entry_is_none(tmp_path: Path) -> None:
    store = TensorStore(tmp_path, room_for(1))
    store.put(key(1), tensors(1))
    [path] = tmp_path.glob("??/*")
    path.write_bytes(path.read_bytes()[:100])
    assert store.get(key(1)) is None
    assert key(1) not in store


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "00").write_text("a file where a folder belongs")
    with pytest.raises(WeightsError, match=f"{tmp_path} cannot be written"):
        TensorStore(tmp_path, room_for(1)).put(key(1), tensors(1))
