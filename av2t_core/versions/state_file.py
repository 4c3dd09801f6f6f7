"""State dicts from files that others wrote: safetensors, or PyTorch's own format without running what is pickled.

GPT-2's merges, which are text, are a state dict of one tensor, so that they can lie beside others.
"""

import pickle
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.dtypes import Float32DType, Float64DType, Int32DType, Int64DType
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from av2t_core.encoders import gpt2
from av2t_core.errors import WeightsError
from av2t_core.files import check_header, in_gigabytes

# LAION's checkpoints hold the state of their training, in which some numbers are numpy's. What rebuilds a number runs
# nothing of the file's; files that are older than numpy 2 know it under another name.
_number = np.float64(0).__reduce__()[0]
_NUMBERS: list[Any] = [
    _number,
    (_number, "numpy.core.multiarray.scalar"),
    *(np.dtype, Float32DType, Float64DType, Int32DType, Int64DType),
]
_CONTAINERS = ("state_dict", "model")  # of LAION-CLAP and of MS-CLAP


def read_state_file(*files: Path, labels: Sequence[str] = ()) -> dict[str, Tensor]:
    """The tensors by name, without the prefix that DataParallel puts before all; mapped from a file where it can be.

    `files`: those of one state dict. `labels`: what errors call each of them instead of its path.
    WeightsError: a file is missing, no state dict, damaged, or holds more than data.
    """
    state: dict[str, Tensor] = {}
    for file, label in zip(files, labels or map(str, files), strict=True):
        try:
            tensors = _read(file)
        except WeightsError as error:
            raise WeightsError(str(error).replace(str(file), label)) from None
        prefix = "module." if all(key.startswith("module.") for key in tensors) else ""
        state |= {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return state


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror})") from None
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a pointer of Git LFS, not the file itself: fetch that with `git lfs pull`")
    if head.startswith(b"#version"):
        return {gpt2.FILE: gpt2.read_merges(path)}
    content: object
    if head[8:9] == b"{":
        check_header(path)
        try:
            content = load_file(path)
        except SafetensorError as error:
            raise WeightsError(f"{path} is damaged ({error}): get it again") from None
    else:
        content = _pickled(path)
    if isinstance(content, dict):
        content = next((content[name] for name in _CONTAINERS if isinstance(content.get(name), dict)), content)
        if state := {str(key): value for key, value in content.items() if isinstance(value, Tensor)}:
            return state
    raise WeightsError(f"{path} holds no named tensors, so it is no state dict")


def _pickled(path: Path) -> object:
    try:
        if zipped := zipfile.is_zipfile(path):
            _check_archive(path)
        with torch.serialization.safe_globals(_NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise WeightsError(
                f"{path} holds more than weights, {found[1]}: none of it was run; get a file that holds tensors alone"
            ) from None
        raise WeightsError(f"{path} is damaged or no checkpoint: get it again") from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"{path} is damaged or no checkpoint ({reason}): get it again") from None


def _check_archive(path: Path) -> None:
    """WeightsError: it is a program, or unpacks to more than it is; PyTorch compresses nothing."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise WeightsError(
            f"{path} is a TorchScript program, as OpenAI's own ViT-B-32.pt is, and not a state dict: take the weights"
            " alone, open_clip's open_clip_model.safetensors in that case"
        )
    unpacked, size = sum(member.file_size for member in members), path.stat().st_size
    if unpacked > size or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise WeightsError(
            f"{path} is compressed, {in_gigabytes(size)} that say they unpack to {in_gigabytes(unpacked)}, which"
            " PyTorch never does: get it from who made it, or unpack and save it again with torch.save"
        )
