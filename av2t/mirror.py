"""The model store as the commands use it: brought here before a command begins, and given what a command has made."""

import argparse
from functools import partial

from av2t.console import note, progress_bar
from av2t.remedies import told
from av2t_core.errors import StoreAwayError, WeightsError
from av2t_core.files import Progress
from av2t_core.versions.store import fetch
from av2t_core.versions.version import Version, resolve
from worker.settings import Settings

BARS: Progress = partial(progress_bar, unit="B")


def refresh(args: argparse.Namespace, *, runs_model: bool) -> None:
    """Have here what the model store has, and the weights that a command is about to run. WeightsError.

    A store that does not answer is only noted: what is here can be used without it.
    """
    settings = Settings.load(data_dir=getattr(args, "data_dir", None))
    try:
        settings.mirror().refresh()
        without = getattr(args, "random_weights", False) or getattr(args, "predictions", None)
        if runs_model and settings.store and not without:
            fetch(resolve(args.model or settings.model, settings.models_dir), BARS)
    except StoreAwayError as error:
        note(f"note: {told(error)}; meanwhile what is here is used")


def share(version: Version) -> None:
    """Have it in the model store, if there is one. WeightsError: it could not be brought there."""
    store = Settings.load().store
    if store is None:
        return
    try:
        store.push(version, BARS)
    except WeightsError as error:
        raise WeightsError(
            f"{version.name} is here, but {told(error)}; `av2t models push {version.name}` tries again"
        ) from None
    note(f"{version.name} is in the model store {store.url}")
