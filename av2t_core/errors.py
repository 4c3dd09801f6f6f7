"""Errors whose message is written for the person who can act on it."""

from collections.abc import Collection


class AV2TError(Exception):
    """A mistake in what came from outside; the message is a sentence that names the thing, the value and the remedy."""


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


_SHOWN = 10


def misfit(what: str, problems: Collection[str]) -> WeightsError:
    """For weights whose keys are not those of `what`: each problem names a key; the first ten are told."""
    shown = "; ".join(sorted(problems)[:_SHOWN]) + ("; …" if len(problems) > _SHOWN else "")
    return WeightsError(f"the weights do not fit the {what} ({len(problems)} keys): {shown}")
