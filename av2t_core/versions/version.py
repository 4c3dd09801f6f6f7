"""Model versions: a directory with the weights and a card; its name is the `model_version` that Label Studio sees.

    <name>/weights.safetensors        what was trained
    <name>/replay.safetensors         some of what it learnt, if its card has that one's hash
    <name>/card.json                  preset, feature, labels, parent, parts, metrics, the weights' hash
    parts/<part>-<hash>.safetensors   what was not, shared by the versions whose cards name it
    <name>/.store                     if it is in a model store, which then has what is missing here (see `store`)
    <name>/.imported                  if it came as a file, from anybody: then it is used by its own name alone

A version that a project's annotations have made holds nothing else: its card says `onto_parent`, and its tensors go
over those of its parent. A version is written aside and renamed into place, and never changed afterwards. Nothing here
imports torch: the backend only asks for names.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from av2t_core.errors import Remedy, WeightsError
from av2t_core.files import file_hash, read_plain
from av2t_core.limits import LARGEST_CARD
from av2t_core.model.presets import NO_ADAPTER, PRESETS
from av2t_core.versions import published
from av2t_core.versions.card import Card
from av2t_core.versions.names import (
    CARD_FILE,
    IMPORT_MARK,
    PARTS_FOLDER,
    REPLAY_FILE,
    STORE_MARK,
    WEIGHTS_FILE,
    check_name,
    is_for_tests,
    is_name,
    is_shipped_name,
)

BUILT_IN = Path(__file__).parents[1] / "weights"
NAMES = "names."
"""What the tensors begin with by which a version names things beside those that it knew."""


@dataclass(frozen=True, kw_only=True)
class Version:
    name: str
    directory: Path
    card: Card

    @property
    def weights(self) -> Path:
        return self.directory / WEIGHTS_FILE

    @property
    def own_files(self) -> list[tuple[Path, str]]:
        """Path and sha256 of its parts and of its weights, without what it loads onto."""
        parts = self.directory.parent / PARTS_FOLDER
        return [*((parts / part.file, part.sha256) for part in self.card.parts), (self.weights, self.card.sha256)]

    @property
    def stored_files(self) -> list[tuple[Path, str]]:
        """`own_files`, and what lies beside the weights for trainings that start from it."""
        replay = self.card.replay_sha256
        return self.own_files + ([(self.directory / REPLAY_FILE, replay)] if replay else [])

    @property
    def files(self) -> list[tuple[Path, str]]:
        """Path and sha256 of all that it is made of, in the order in which later tensors replace earlier ones.

        WeightsError as for `chain`.
        """
        return [file for version in reversed(self.chain) for file in version.own_files]

    def member(self, path: Path) -> str:
        """How a file of it is called in the folder of the versions."""
        return path.relative_to(self.directory.parent).as_posix()

    @property
    def is_built_in(self) -> bool:
        """Whether it ships with the package."""
        return self.directory.parent == BUILT_IN

    @property
    def in_store(self) -> bool:
        return (self.directory / STORE_MARK).is_file()

    @property
    def is_imported(self) -> bool:
        """Whether it came as a file, from anybody."""
        return (self.directory / IMPORT_MARK).is_file()

    @property
    def base(self) -> "Version | None":
        """Its parent if it loads onto that one. WeightsError: the parent is not there, or is another of that name."""
        name = self.card.loads_onto
        if name is None:
            return None
        models_dir = self.directory.parent
        base = find(name, models_dir)
        if base is None:
            missing = f"model version {self.name} loads onto {name}, which is not in {models_dir}"
            if is_shipped_name(name, self.card.preset):
                raise WeightsError(f"{missing}: it ships with another release of this package, install that one")
            remedy = Remedy.GET_WEIGHTS if published.release(name) else Remedy.EXPORT
            raise WeightsError(missing, remedy, name=name)
        if self.card.parent_sha256 not in (None, base.card.sha256):
            why = f"model version {self.name} loads onto another {name} than the one in {models_dir}: its card and that"
            why += " one's have different hashes; keep versions of different origin in different folders"
            raise WeightsError(why, Remedy.OTHER_FOLDER)
        return base

    @property
    def chain(self) -> "list[Version]":
        """It, what it loads onto, what that loads onto, … WeightsError as for `base`, or it comes back to itself."""
        chain = [self]
        while (base := chain[-1].base) is not None:
            chain.append(base)
            if any(base.directory == version.directory for version in chain[:-1]):
                names = " onto ".join(version.name for version in chain)
                raise WeightsError(f"{names}: a model version cannot load onto itself; delete {self.directory}")
        return chain

    @property
    def names(self) -> tuple[str, ...]:
        """What it or what it loads onto has learnt to call things, beside what it knew. WeightsError as for `chain`."""
        return next((version.card.names for version in self.chain if version.card.names), ())

    @property
    def caution(self) -> str | None:
        """What a person should know before trusting its masks of clips of their own."""
        if not self.is_built_in:
            return None
        if is_for_tests(self.name):
            return f"{self.name} is for tests: it knows {len(self.card.labels)} things, and none of them on real video"
        return f"{self.name} goes by what is heard and seen, not by mouths: a narrator may mark somebody in view"

    @property
    def remedy(self) -> str:
        """How a file that is missing or damaged is got again."""
        if self.is_built_in:
            return "install the package again"
        if self.in_store:
            return "delete it, and it is fetched from the model store again"
        command = self.card.source.get("command")
        return f"delete {self.directory} and run `{command}`" if command else "bring it back from a copy"

    def missing(self, path: Path) -> WeightsError:
        return WeightsError(f"{path}, of model version {self.name}, is missing; {self.remedy}")

    def damaged(self, path: Path) -> WeightsError:
        return WeightsError(f"{path} is damaged: its sha256 is not the one on the card; {self.remedy}")

    def check(self) -> Self:
        """Itself. WeightsError if it cannot predict, as far as that is seen without reading its weights."""
        if self.card.start:
            why = f"model version {self.name} is EVF-SAM alone, a start for training; it cannot tell what sounds"
            raise WeightsError(why, Remedy.GET_TRAINED, name=self.card.preset)
        self.check_files()
        return self

    def check_files(self) -> None:
        """WeightsError if one of its files is missing, here and in the model store."""
        for version in self.chain:
            for path, _ in version.own_files:
                if not path.is_file() and not version.in_store:
                    raise version.missing(path)

    def verify(self) -> None:
        """WeightsError: a file, which `store.fetch` has brought here, is missing or not the one on the card."""
        self.check_files()
        for version in self.chain:
            for path, sha256 in version.own_files:
                if file_hash(path) != sha256:
                    raise version.damaged(path)


def resolve(name: str, models_dir: Path | None = None) -> Version:
    """The version of this name, or the newest one of the preset of this name that nobody has fine-tuned, and that was
    pulled or made here or ships with the package: what was imported is meant by its own name alone.

    `models_dir` is looked into before the built-in ones; what cannot be read there is not chosen. WeightsError: there
    is none, or the card of the one of this name cannot be read.
    """
    if (version := find(name, models_dir)) is not None:
        return version
    of_preset = [each for each in installed(models_dir or BUILT_IN) if each.card.is_fresh and each.card.preset == name]
    if own := [each for each in of_preset if not each.is_imported and not each.is_built_in]:
        return max(own, key=lambda version: (version.directory / CARD_FILE).stat().st_mtime)
    if built_in := [each for each in of_preset if each.is_built_in]:
        return max(built_in, key=lambda version: int(version.name.rpartition("-")[2]))
    if imported := " or ".join(each.name for each in of_preset):
        raise WeightsError(f"{name} is only here as what was imported: name {imported} if that is meant")
    if published.release(name):
        raise WeightsError(f"the weights of {name} are not in {models_dir or BUILT_IN}", Remedy.GET_WEIGHTS, name=name)
    if is_for_tests(name):
        why = f"the weights of {name} are for tests, and come with the repository alone"
        raise WeightsError(f"{why}; the model that ships with the package is small")
    known = [path.name for root in (models_dir, BUILT_IN) if root for path in _directories(root)]
    raise WeightsError(f"there is no model version {name!r}; there are {', '.join(known) or 'none'}")


def find(name: str, models_dir: Path | None = None) -> Version | None:
    """The version of exactly this name. WeightsError: its card cannot be read, or `name` is no name."""
    check_name(name)
    found = [root / name for root in (models_dir, BUILT_IN) if root and (root / name / CARD_FILE).is_file()]
    return _read(found[0]) if found else None


def resolve_start(preset: str, name: str | None, models_dir: Path) -> Version:
    """The version of this name, or the one that trainings of this preset start from: EVF-SAM, or the embedded model.

    WeightsError: it is not there, and how to get it; or it is of another segmenter or of other encoders.
    """
    start = preset.removesuffix(NO_ADAPTER)
    if start in published.presets():  # EVF-SAM is the same with adapters and without
        own = published.start_name(preset)
        start = own if (models_dir / own).is_dir() else published.start_name(start)
    version = resolve(start if name is None else name, models_dir)
    if name is None and version.is_imported:
        why = f"{version.name} is only here as what was imported"
        raise WeightsError(f"{why}: name it if trainings of {preset} are to start from it")
    theirs = version.card.preset
    # Adapters are drawn where the start has none.
    if theirs not in PRESETS or replace(PRESETS[theirs], adapter=True) != replace(PRESETS[preset], adapter=True):
        why = f"{version.name}, which is of the preset {theirs}: its segmenter or its encoders are others"
        raise WeightsError(f"a training of the preset {preset} cannot start from {why}")
    return version


def installed(models_dir: Path) -> list[Version]:
    """All that are in `models_dir` and can be used, as far as their cards say, and the built-in ones."""
    return _cards(models_dir)[0] + _cards(BUILT_IN)[0]


def damaged(models_dir: Path) -> dict[str, str]:
    """Those in `models_dir` whose cards cannot be used, by their names: why, in a sentence."""
    return _cards(models_dir)[1]


def _directories(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.glob(f"*/{CARD_FILE}") if is_name(path.parent.name))


def _cards(root: Path) -> tuple[list[Version], dict[str, str]]:
    """`installed` and `damaged` of one folder."""
    usable, damaged = [], {}
    for directory in _directories(root):
        try:
            usable.append(_read(directory))
        except WeightsError as error:
            damaged[directory.name] = str(error)
    return usable, damaged


def _read(directory: Path) -> Version:
    """WeightsError: it has no card that can be used."""
    path = directory / CARD_FILE
    try:
        card = Card.parse(read_plain(path, LARGEST_CARD + 1))
    except (OSError, ValueError) as error:
        why = f"{path} is no card of a model version ({error})"
        raise WeightsError(f"{why}: bring it back from a copy, or delete {directory}") from error
    return Version(name=directory.name, directory=directory, card=card)
