"""HTTP's statuses, as far as they say whether to try again, whoever answers."""

from http import HTTPStatus

_COME_AGAIN = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,  # somebody else has the thing in hand at this moment,
    HTTPStatus.LOCKED,  # and here too
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}
# The server will not learn it. All other 5xx say that it, or one before it, is not itself.
_NEVER = {HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED}
_KNOWN = frozenset(map(int, HTTPStatus))


def may_pass(status: int) -> bool:
    """Whether the same request may be answered otherwise later.

    So may what HTTP does not have, as 460, 499, 520 to 530 and 598: only proxies invent statuses.
    """
    return status in _COME_AGAIN or status not in _KNOWN or (status >= 500 and status not in _NEVER)
