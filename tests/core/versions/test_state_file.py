"""State dicts from the files of others, of which some hold more than numbers."""

import collections
import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from av2t_core.errors import WeightsError
from av2t_core.memory import resident_peak
from av2t_core.versions.bundle import _shapes
from av2t_core.versions.checkpoint import read_tensors
from av2t_core.versions.state_file import read_state_file
from tests.core.encoders.merges import made_up

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.steps": torch.tensor([7])}


def same(state: dict[str, Tensor]) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(state[key], STATE[key]) for key in STATE)


def saved(path: Path, content: object, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def test_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.bin")  # the content tells, not the name
    assert same(read_state_file(tmp_path / "a.bin"))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("container", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_training_saves(tmp_path: Path, prefix: str, container: str | None, zipped: bool) -> None:
    state = collections.OrderedDict((prefix + key, tensor) for key, tensor in STATE.items())
    content = {container: state, "epoch": 3, "optimizer": {"state": {0: torch.ones(1)}}} if container else state
    assert same(read_state_file(saved(tmp_path / "a.pth", content, zipped)))


def test_half_a_prefix_stays(tmp_path: Path) -> None:
    state = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert set(read_state_file(saved(tmp_path / "a.pth", state))) == {"module.a", "b"}


@pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
def test_numbers_of_numpy_beside_the_weights(tmp_path: Path, module: str) -> None:
    content = {
        "best": np.float64(3.5),
        "epoch": np.int64(4),
        "state_dict": {f"module.{k}": t for k, t in STATE.items()},
    }
    path = saved(tmp_path / "new.pt", content)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"numpy._core.multiarray", module.encode()))
    assert same(read_state_file(tmp_path / "a.pt"))


def test_tensors_are_mapped_not_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"a": torch.zeros(1_000_000)})
    state = read_state_file(path)
    assert str(path) in Path("/proc/self/maps").read_text()
    assert state["a"].shape == (1_000_000,)


def test_gpt2s_merges_lie_beside_a_state_dict(tmp_path: Path) -> None:
    (tmp_path / "any.name").write_bytes(made_up())
    files = saved(tmp_path / "a.pth", {f"module.{key}": tensor for key, tensor in STATE.items()}), tmp_path / "any.name"
    state = read_state_file(*files)
    assert tuple(state.pop("merges.txt").shape) == (50_000, 2)
    assert same(state)
    (tmp_path / "any.name").write_bytes(b"#version: 0.2\nt h\n")
    with pytest.raises(WeightsError, match=r"^GPT-2's holds 1 merges, and GPT-2 has 50000: get"):
        read_state_file(*files, labels=["the other", "GPT-2's"])


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_what_is_pickled_is_never_run(tmp_path: Path, form: str) -> None:
    harm, path = tmp_path / "harm", tmp_path / "a.pth"
    content = {**STATE, "more": Harm(harm)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        saved(path, content, zipped=form == "zip")
    with pytest.raises(WeightsError, match=r"a\.pth holds more than weights, .*: none of it was run"):
        read_state_file(path)
    assert not harm.exists()
    pickle.loads(pickle.dumps(Harm(harm)))  # it would have
    assert harm.exists()


def test_a_module_is_no_state_dict(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds more than weights, torch\.nn\.modules\.linear\.Linear: none"):
        read_state_file(saved(tmp_path / "a.pth", nn.Linear(2, 2)))


def test_a_program_is_refused_by_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ViT-B-32.pt", "w") as archive:  # as torch.jit.save lays it out
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py", "version"):
            archive.writestr(f"ViT-B-32/{name}", b"x")
    with pytest.raises(WeightsError, match=r"ViT-B-32\.pt is a TorchScript program.*open_clip_model\.safetensors"):
        read_state_file(tmp_path / "ViT-B-32.pt")


@pytest.mark.parametrize("member", ["data.pkl", "data/0"])
def test_a_small_archive_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path, member: str) -> None:
    saved(tmp_path / "a.pth", STATE)
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as old,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name) + bytes(10**8 if name.endswith(f"/{member}") else 0))
    assert (tmp_path / "bomb.pth").stat().st_size < 10**6
    before = resident_peak()
    with pytest.raises(WeightsError, match=r"bomb\.pth is compressed, \d+ kB that say they unpack to 0\.1 GB"):
        read_state_file(tmp_path / "bomb.pth")
    assert resident_peak() - before < 50e6


def test_members_that_lie_over_each_other_are_refused(tmp_path: Path) -> None:
    """Not compressed, but a thousand of them are the same bytes."""
    path = saved(tmp_path / "a.pth", {"a": torch.zeros(10_000)})
    content = path.read_bytes()
    at = content.index(b"PK\x01\x02")  # the list of the members
    end = content.index(b"PK\x06\x06") if b"PK\x06\x06" in content else content.rindex(b"PK\x05\x06")
    entries = content[at:end] * 1000
    count = entries.count(b"PK\x01\x02")
    path.write_bytes(
        content[:at] + entries + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, len(entries), at, 0)
    )
    with pytest.raises(WeightsError, match="is compressed"):
        read_state_file(path)


def test_a_header_that_names_more_than_any_model_is_not_read(tmp_path: Path) -> None:
    header = json.dumps({f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(130_000)})
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    for read in (
        read_state_file,
        lambda path: list(read_tensors(path, torch.device("cpu"))),
        lambda path: _shapes([path]),
    ):
        with pytest.raises(WeightsError, match=r"a\.safetensors is damaged .* its header has 8,\d+,\d+ bytes"):
            read(path)


def bytes_of(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is damaged or no checkpoint"),
        (b"<html>Log in</html>", "is damaged or no checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "is a pointer of Git LFS"),
        (bytes_of(STATE)[:-200], "is damaged or no checkpoint"),
        (b"\x40\0\0\0\0\0\0\0{" + b" " * 63, "is damaged"),
        (bytes_of([1, 2]), "holds no named tensors"),
        (bytes_of({"epoch": 1}), "holds no named tensors"),
        (bytes_of(torch.ones(2)), "holds no named tensors"),
    ],
)
def test_what_is_no_state_dict_is_said(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as error:
        read_state_file(path)
    assert words in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"a\.pth cannot be read \(No such file or directory\)"):
        read_state_file(tmp_path / "a.pth")
