"""Text from outside, as a log, a terminal and a page can show it."""

import re

from av2t_core import limits

# What ends a line or moves the cursor, what turns the direction of the text, and halves of a character of UTF-16.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")  # a JSON web token, as Label Studio's access tokens are


def one_line(text: str) -> str:
    """With each control character spelt out, as Python does: nothing in it forges a line or steers a terminal."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def lines(text: str) -> str:
    """As `one_line`, but with its line breaks."""
    return "\n".join(map(one_line, text.split("\n")))


def sentence(text: str) -> str:
    """On one line, and of a bounded length."""
    line = one_line(text[: limits.SENTENCE])
    return line if len(text) <= limits.SENTENCE else f"{line}…"


def utf8(text: str) -> str:
    """With what UTF-8 has no bytes for, as in a file's name that is none, spelt out as JSON does within its strings."""
    return text.encode("utf-8", "backslashreplace").decode()


def redact(text: str, secret: str) -> str:
    """`text` without the secret and without any access token that was made from it."""
    if secret:
        text = text.replace(secret, "***")
    return _TOKEN.sub("***", text)
