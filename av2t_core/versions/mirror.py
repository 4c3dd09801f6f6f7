"""The folder of model versions as the mirror of a model store: its cards and its pointers; weights come when wanted.

What comes from the store may be from anybody: what does not have the name or the form of a card or a pointer is left
out, and said once.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from av2t_core.errors import StoreAwayError, WeightsError
from av2t_core.files import atomic_folder
from av2t_core.limits import LARGEST_CARD
from av2t_core.versions import pointers
from av2t_core.versions.card import Card
from av2t_core.versions.names import CARD_FILE, is_name, is_of_versions, project_of, set_aside_name
from av2t_core.versions.store import Entry, Mark, Store, mark_of
from av2t_core.versions.version import BUILT_IN, Version, find, installed

log = logging.getLogger("av2t.store")


class Mirror:
    """`away_since`, `error`: since when, and why, the store cannot be used; None: it can."""

    def __init__(self, models_dir: Path, store: Store | None) -> None:
        self._models_dir, self.store = models_dir, store
        self.away_since: datetime | None = None
        self.error: WeightsError | None = None
        self._pointers: dict[int, Entry] = {}
        self._said: set[str] = set()

    def refresh(self) -> None:
        """Have what the store has now, if there is one. WeightsError: it, or the folder here, cannot be used."""
        if self.store is None:
            return
        try:
            entries = self.store.listing()
            with pointers.changing(self._models_dir):
                self._take(self.store, entries)
        except WeightsError as error:
            self.away_since, self.error = self.away_since or datetime.now(UTC), error
            raise
        self.away_since = self.error = None

    def _take(self, store: Store, entries: Mapping[str, Entry]) -> None:
        cards, projects, others = {}, {}, []
        for member, entry in entries.items():
            name, _, file = member.partition("/")
            small = entry.size <= LARGEST_CARD
            if small and file == CARD_FILE and is_name(name):
                cards[name] = entry
            elif small and (project := project_of(member)):
                projects[project] = entry
            elif not is_of_versions(member) and not Path(member).name.startswith("."):
                others.append(repr(member))
        if others:
            shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
            self._say("others", f"files in the model store {store.url} that are none of its own are left out: {shown}")
        for name, entry in cards.items():
            self._take_card(store, name, Mark(url=store.url, stamp=entry.stamp))
        for project, entry in projects.items():  # now that what they name is here
            if self._pointers.get(project) != entry:
                try:
                    pointers.take(self._models_dir, project, store)
                except StoreAwayError:
                    raise
                except WeightsError as error:
                    self._say(f"project {project}", str(error))
                self._pointers[project] = entry
        if entries:  # else it is rather one that is not mounted, or was emptied by mistake
            self._drop(store, cards)

    def _take_card(self, store: Store, name: str, mark: Mark) -> None:
        directory = self._models_dir / name
        before = mark_of(directory)
        if before == mark:
            return
        if (text := store.read(f"{name}/{CARD_FILE}")) is None:  # gone since it was listed
            return
        card = Card.parse_usable(text)
        if card is None or (BUILT_IN / name).exists():
            why = "has no card that can be used" if card is None else "is called as one that ships with the package"
            self._say(name, f"the model version {name} in the model store {store.url} {why}, and is left out")
            return
        if directory.exists():
            if (here := find(name, self._models_dir)) is None:
                self._say(name, f"{directory} exists and is no model version, so the model store's {name} is left out")
                return
            if here.card == card:
                store.mark(name, directory)
                return
            self._set_aside(store, here, before)
        with atomic_folder(directory) as aside:
            (aside / CARD_FILE).write_bytes(text)
            store.mark(name, aside)

    def _set_aside(self, store: Store, here: Version, mark: Mark | None) -> None:
        """For another version of that name, which is what all other machines mean by it."""
        if mark is not None:  # it was deleted there, and another one made
            pointers.remove_version(here)
            return
        aside = here.directory.with_name(set_aside_name(here.name, here.card.sha256))
        what = "the model store %s has another model version %s than this machine, whose own is called %s from now on"
        log.warning(what, store.url, here.name, aside.name)
        here.directory.rename(aside)

    def _drop(self, store: Store, cards: Mapping[str, Entry]) -> None:
        """What was in the store, and has been deleted."""
        for version in installed(self._models_dir):
            gone = version.name not in cards and store.has(version)
            # Else it was pushed after the store was listed.
            if gone and store.read(f"{version.name}/{CARD_FILE}") is None:
                log.info("model version %s was deleted from the model store %s, and here", version.name, store.url)
                pointers.remove_version(version)

    def _say(self, about: str, sentence: str) -> None:
        """Once."""
        if about not in self._said:
            self._said.add(about)
            log.warning("%s", sentence)
