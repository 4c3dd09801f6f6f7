"""What servers answer when they refuse, and what that is taken for: the one table.

| answer | taken for | why |
|---|---|---|
| a status that `may_pass` | may pass | the server, or one before it, is busy or not itself |
| any other refusal of Label Studio, in its own words | final | it knows |
| the same without its words | may pass | a proxy says so, as while Label Studio is deployed |
| any other refusal of a clip's server | doubtful | it may be a proxy's: it is believed when it is repeated |

That a task or a project is gone is believed when Label Studio says so in its own words, twice, with a pause between.
"""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from time import time

import httpx

TIMEOUT = httpx.Timeout(60, connect=10)


def is_label_studios(status: int, body: object) -> bool:
    """Whether an error with this body, parsed JSON, is in Label Studio's own words and not a proxy's."""
    return isinstance(body, dict) and body.get("status_code") == status and {"version", "detail"} <= body.keys()


def json_of(response: httpx.Response) -> object:
    """Its body; None for one that is no JSON."""
    try:
        return response.json()
    except ValueError:
        return None


def reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def detail(body: object) -> str:
    """What the body of an error, parsed JSON, gives as its reason."""
    if not isinstance(body, dict):
        return "no reason given"
    errors = body.get("validation_errors")
    return f"{body.get('detail', 'no reason given')}{f', {errors}' if errors else ''}"[:500]


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from a number or a date."""
    value = {name.lower(): value for name, value in headers.items()}.get("retry-after", "")
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        return max(parsedate_to_datetime(value).timestamp() - time(), 0)
    except (ValueError, OverflowError):
        return None
