"""GPT-2's byte-pair encoding from its `merges.txt` alone, for all of its vocabulary follows from that file.

A token is a byte, two earlier tokens, or the last one, which ends a text.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from av2t_core.errors import WeightsError
from av2t_core.limits import MERGES_FILE

FILE = "merges.txt"
"""What the merges are called among a checkpoint's tensors."""
MERGES = 50_000
END = "<|endoftext|>"

_BYTES = sorted(ByteLevel.alphabet())
"""A character for each byte, in the order of GPT-2's vocabulary."""
_SHOWN = 40  # characters


def read_merges(path: Path) -> torch.Tensor:
    """(MERGES, 2) from the file: the numbers of the two tokens that become one. WeightsError: they are not GPT-2's."""

    def wrong(what: str) -> WeightsError:
        return WeightsError(f"{path}{what}: get merges.txt of openai-community/gpt2 again")

    numbers = {character: number for number, character in enumerate(_BYTES)}
    merges = []
    if (size := path.stat().st_size) > MERGES_FILE:
        raise wrong(f" has {size:,} bytes, and GPT-2's merges less than {MERGES_FILE:,}")
    lines = path.read_text("utf-8", errors="replace").rstrip().splitlines()
    for place, line in enumerate(lines, 1):
        if place == 1 and line.startswith("#version"):
            continue
        left, _, right = line.partition(" ")
        here = f", line {place}: {line[:_SHOWN]!r}"
        if left not in numbers or right not in numbers:
            raise wrong(f"{here} is not two tokens that are known by then, with a space between them")
        if left + right in numbers:
            raise wrong(f"{here} makes a token that is there already")
        merges.append((numbers[left], numbers[right]))
        numbers[left + right] = len(numbers)
    if len(merges) != MERGES:
        raise wrong(f" holds {len(merges)} merges, and GPT-2 has {MERGES}")
    return torch.tensor(merges, dtype=torch.int32)


def tokenizer(merges: torch.Tensor, special: str) -> Tokenizer:
    """By merges (MERGES, 2). `special`: a token that is one wherever it stands in a text, as END is."""
    tokens = list(_BYTES)
    pairs = []
    for left, right in merges.tolist():
        pairs.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right])
    made = Tokenizer(BPE({token: number for number, token in enumerate([*tokens, END])}, pairs))
    made.pre_tokenizer = ByteLevel(add_prefix_space=False)
    made.add_special_tokens([special, END])
    return made
