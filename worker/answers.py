"""What servers answer when they refuse, and how long they are waited for."""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from time import time

import httpx

TIMEOUT = httpx.Timeout(60, connect=10)
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
"""Statuses that may pass."""


def reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def detail(response: httpx.Response) -> str:
    try:
        return body_detail(response.json())
    except ValueError:
        return "no reason given"


def body_detail(body: object) -> str:
    if not isinstance(body, dict):
        return "no reason given"
    errors = body.get("validation_errors")
    return f"{body.get('detail', 'no reason given')}{f', {errors}' if errors else ''}"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from a number or a date."""
    value = {name.lower(): value for name, value in headers.items()}.get("retry-after", "")
    if value.isdigit():
        return float(value)
    try:
        return max(parsedate_to_datetime(value).timestamp() - time(), 0)
    except ValueError:
        return None
