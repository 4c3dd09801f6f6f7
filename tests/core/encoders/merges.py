"""A vocabulary in GPT-2's form, made up: its own is not at hand."""

from tokenizers.pre_tokenizers import ByteLevel

WORDS = ("this", " is", " the", " sound", " of", " dog", " electric", " guitar", " violin", " train", "<|")


def made_up() -> bytes:
    """A merges.txt by which these words are tokens, all that they begin with, and most pairs of bytes."""
    alphabet = sorted(ByteLevel.alphabet())
    merges: dict[str, str] = {}  # what becomes a token: the line that says so
    for word in WORDS:
        characters = word.replace(" ", "Ġ")
        for end in range(1, len(characters)):
            merges.setdefault(characters[: end + 1], f"{characters[:end]} {characters[end]}")
    for first in alphabet:
        for second in alphabet:
            merges.setdefault(first + second, f"{first} {second}")
    return "\n".join(["#version: 0.2", *list(merges.values())[:50_000], ""]).encode()
