"""Errors whose message is written for the person who can act on it."""

from collections.abc import Collection
from enum import StrEnum, auto
from http import HTTPStatus


class Remedy(StrEnum):
    """What helps. Its words, with the commands and variables of a program, are that program's."""

    CHECK_DATA = auto()  # root, layout
    CHOOSE_FILE = auto()
    EXPORT = auto()  # name
    FILE_OR_IMPORT = auto()  # what, page
    GET_TRAINED = auto()  # name
    GET_WEIGHTS = auto()  # name
    LIST_VERSIONS = auto()
    MAKE_ROOM = auto()
    MASK_BOXES = auto()
    MOVE_DATA = auto()
    OTHER_FOLDER = auto()
    PROMOTE = auto()  # project
    PUSH = auto()  # name
    PUSH_WHOLE = auto()  # name
    ROLLBACK = auto()  # project
    STORE_URL = auto()


class AV2TError(Exception):
    """A mistake in what came from outside. The message is a sentence that names the thing, the value and what helps;
    where that takes a command, `remedy` stands for it, and `about` has its fields."""

    def __init__(self, message: str, remedy: Remedy | None = None, **about: object) -> None:
        super().__init__(message)
        self.remedy, self.about = remedy, about


class MediaError(AV2TError):
    """The clip cannot be used as it is."""


class ConfigError(AV2TError):
    """A label config or a setting cannot be used as it is."""


class WeightsError(AV2TError):
    """A model version or its weights are missing or do not fit."""


class StoreAwayError(WeightsError):
    """The model store does not answer; it may later."""


class DiskFullError(WeightsError):
    """A disk has no room left; it may have some, once somebody has made it."""


class MemoryShortError(AV2TError):
    """The memory that is free does not suffice; it may, once others have freed theirs."""


def misfit(what: str, problems: Collection[str]) -> WeightsError:
    """For weights whose keys are not those of `what`: each problem names a key; the first ten are told."""
    shown = "; ".join(sorted(problems)[:10]) + ("; …" if len(problems) > 10 else "")
    return WeightsError(f"the weights do not fit the {what} ({len(problems)} keys): {shown}")


_COME_AGAIN = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,  # somebody else has the thing in hand at this moment,
    HTTPStatus.LOCKED,  # and here too
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}
_FINAL = {status for status in HTTPStatus if status < 500} - _COME_AGAIN
_FINAL |= {HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED}  # the server will not learn it


def may_pass(status: int) -> bool:
    """Whether the request that was answered with this HTTP status may be answered otherwise later.

    So may what HTTP does not have, as 460, 499, 520 to 530 and 598: only proxies invent statuses.
    """
    return status not in _FINAL
