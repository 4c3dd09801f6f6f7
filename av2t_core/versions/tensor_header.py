"""The header of a file of safetensors, which names all that is in it, is read as a whole: it is looked at before."""

from pathlib import Path

from av2t_core.errors import WeightsError
from av2t_core.limits import TENSOR_HEADER


def check_header(path: Path) -> None:
    """WeightsError: it is larger than that of any model."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > TENSOR_HEADER:
        raise WeightsError(
            f"{path} is damaged or no file of safetensors: its header has {length:,} bytes, and at most"
            f" {TENSOR_HEADER:,} can be used; get it again"
        )
