"""Against transformers' tokenizer by the same vocabulary, which is made up: GPT-2's own is not at hand."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers.models.gpt2.tokenization_gpt2 import GPT2Tokenizer

from av2t_core.encoders.gpt2 import END, read_merges, tokenizer
from av2t_core.errors import WeightsError
from tests.core.encoders.merges import made_up

MERGES = made_up()


@cache
def theirs() -> GPT2Tokenizer:
    """With the vocabulary as OpenAI's code lists it: printable bytes, the other bytes, what merges make, the end."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = range(256 - len(printable))
    merges = [(left, right) for left, right in map(str.split, MERGES.decode().splitlines()[1:])]
    tokens = [*map(chr, printable), *(chr(256 + i) for i in others), *(a + b for a, b in merges), END]
    made = GPT2Tokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=merges)
    made.add_special_tokens({"pad_token": "!"})
    return made


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        (tmp_path / "merges.txt").write_bytes(content)
        return tmp_path / "merges.txt"

    return write


@pytest.fixture
def ours(written: Callable[[bytes], Path]) -> Tokenizer:
    return tokenizer(read_merges(written(MERGES)), "!")


@pytest.mark.parametrize(
    "text",
    [
        "this is the sound of dog",
        f"this is the sound of electric guitar {END}",
        "This is  the\tsound, of: dogs' 42 trains\n",
        "кто там, 犬 🎻 naïve\u00a0x",
        f"wait! what!! {END}",
        "",
    ],
)
def test_texts_are_transformers_tokens(ours: Tokenizer, text: str) -> None:
    assert ours.encode(text).ids == theirs()(text)["input_ids"]


def test_a_word_is_one_token_and_the_end_is_the_last(ours: Tokenizer) -> None:
    assert ours.encode(f"this is sound of dog{END}").tokens == ["this", "Ġis", "Ġsound", "Ġof", "Ġdog", END]
    assert ours.encode(END).ids == [50_256]
    assert ours.encode("~!").ids == [93, 0]


@pytest.mark.parametrize("form", ["without its first line", "of Windows", "without an end of line"])
def test_other_forms_of_the_file(written: Callable[[bytes], Path], form: str) -> None:
    other = {
        "without its first line": MERGES.partition(b"\n")[2],
        "of Windows": MERGES.replace(b"\n", b"\r\n"),
        "without an end of line": MERGES.rstrip(),
    }[form]
    assert torch.equal(read_merges(written(other)), read_merges(written(MERGES)))


def _changed(place: int, line: str) -> bytes:
    lines = MERGES.decode().splitlines()
    lines[place - 1] = line
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_changed(7, "t qu"), "merges.txt, line 7: 't qu' is not two tokens that are known by then"),
        (_changed(7, "th"), "line 7: 'th' is not two tokens"),
        (_changed(7, "t h i"), "line 7: 't h i' is not two tokens"),
        (_changed(7, "t h"), "line 7: 't h' makes a token that is there already"),
        (_changed(30_000, "\ufffd a"), "line 30000: '\ufffd a' is not"),
        (MERGES[:-200], "line "),
        (b"#version: 0.2\n" + b"\n".join(MERGES.splitlines()[1:40_001]), "holds 40000 merges, and GPT-2 has 50000"),
        (MERGES + b"!!! !\n", "line 50002: '!!! !' is not"),
        (MERGES + b"!! !\n", "holds 50001 merges, and GPT-2 has 50000"),
        (b"#version: 0.2\n", "holds 0 merges"),
        (b"#version\n" + b"<" * 3000, f"line 2: '{'<' * 40}' is not"),
        (b"#version\n\xff\xfe a", "line 2: "),
    ],
)
def test_what_is_not_gpt2s_is_said(written: Callable[[bytes], Path], content: bytes, words: str) -> None:
    path = written(content)
    with pytest.raises(WeightsError) as error:
        read_merges(path)
    assert str(error.value).startswith(str(path))
    assert words in str(error.value)
    assert str(error.value).endswith(": get merges.txt of openai-community/gpt2 again")
    assert "\n" not in str(error.value)
