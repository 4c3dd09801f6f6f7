"""The weights of the published models: fetch them, take them from files that are here, or see what there is.

They become model versions in AV2T_DATA_DIR/models (.av2t/models), for use as --model or AV2T_MODEL. A version of the
paper's model is named after its preset and the part of AVSBench that it was trained on, as sam2-l-ms3; the preset's
name alone means its newest version.

examples:
  av2t weights pull sam2-l                            the paper's model, about 5 GB
  av2t weights pull sam1-h-noadapter --dataset s4     another row of its Table 1
  av2t weights pull sam2-l --start                    EVF-SAM2 alone, to train a model from
  av2t weights import sam2-l run_mul_adapter_evf_sam2_s4_best.pth \\
      open_clip_model.safetensors CLAP_weights_2023.pth merges.txt
  av2t weights list

`av2t weights COMMAND --help` tells more about one of them."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from av2t.console import note, report, table
from av2t.options import Json
from av2t.remedies import how_to_train, told
from av2t.signature import Arg, Table
from av2t.store import BARS, load_settings, share
from av2t_core.errors import WeightsError
from av2t_core.files import in_gigabytes, require_space
from av2t_core.model.config import Feature
from av2t_core.settings import ModelSettings
from av2t_core.versions import published
from av2t_core.versions.names import DOWNLOADS_FOLDER, PARTS_FOLDER
from av2t_core.versions.published import Dataset
from av2t_core.versions.saving import NewVersion, alone, encoder_parts, find_complete, save_encoder, save_model
from av2t_core.versions.version import Version, damaged, installed

if TYPE_CHECKING:  # they bring torch and an HTTP client, for which nobody who is refused should wait
    from torch import Tensor

    from av2t_core.model.published_weights import Published
    from av2t_core.versions.hub import RemoteFile

COMMANDS: Table = {
    "pull": ("av2t.commands.weights:pull", "fetch a published model from the model hub"),
    "import": ("av2t.commands.weights_import:import_files", "take weights from files that are here"),
    "list": ("av2t.commands.weights:list_weights", "show which weights there are"),
}

PRESETS = published.presets()
PresetName = Annotated[str, Arg(", ".join(PRESETS), "PRESET", choices=PRESETS)]
FEATURE = "what prompts SAM: CLIP's and CLAP's product, or one of them, as in the paper's Table 2 (default: {})"


def pull(
    preset: PresetName,
    *,
    feature: Annotated[Feature | None, Arg(FEATURE.format("mul"))] = None,
    dataset: Annotated[
        Dataset | None,
        Arg(
            "the part of AVSBench that it was trained on: ms3, where several things sound as in most video, or s4,"
            f" where one does (default: {published.DEFAULT_DATASET})"
        ),
    ] = None,
    start: Annotated[bool, Arg("EVF-SAM's weights alone, to train a model from")] = False,
    file: Annotated[str | None, Arg("the checkpoint in its repository, where pull does not find it", "NAME")] = None,
) -> int:
    """Fetch a published model and its encoders from the model hub, check them, and convert them once.

    A pull that is interrupted goes on where it was when the same command runs again. What was fetched is deleted as
    soon as it is converted; meanwhile about twice its size must be free. HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and the
    variables of a proxy are heeded. Pickled files are read as data and never run.

    examples:
      av2t weights pull sam2-l
      av2t weights pull sam2-l --feature clap --dataset s4
      av2t weights pull sam2-l --file somebody_mul_adapter_evf_sam2_ms3_best.pth
    """
    settings = load_settings(ModelSettings)
    models_dir = settings.models_dir
    if start and (feature or dataset):
        raise WeightsError("--start is EVF-SAM, which knows neither --feature nor --dataset; leave them out")
    command = f"av2t weights pull {preset}"
    if start:
        name, wanted, feature = published.start_name(preset), published.start(preset), "mul"
        command += " --start"
    else:
        if not published.is_known(preset) and not file:
            raise WeightsError(
                f"no model of {preset} is known to be published: {how_to_train(preset)}; if you know of a checkpoint,"
                " name it with --file"
            )
        said = published.named(file or "")
        feature = published.agreed("--feature", feature, said.feature if said else None) or "mul"
        dataset = published.agreed("--dataset", dataset, said.dataset if said else None) or published.DEFAULT_DATASET
        name, wanted = published.version_name(preset, feature, dataset), published.model(preset, feature, dataset)
        command += f" --feature {feature} --dataset {dataset}"
    command += f" --file {file}" if file else ""
    version = NewVersion(name=name, preset=preset, feature=feature, source={"command": command})
    if find_complete(models_dir, version.name, BARS):
        print(f"{version.name} is in {models_dir} already")
        return 0
    with alone(models_dir):
        _fetch_and_convert(version, wanted, file, models_dir)
    finish(find_complete(models_dir, version.name, BARS), settings)
    return 0


def finish(made: Version | None, settings: ModelSettings) -> None:
    """Say what was made, and share it."""
    if made is None:
        return
    size = in_gigabytes(sum(path.stat().st_size for path, _ in made.files))
    use = "from which a model can be trained"
    if not made.card.start:
        use = f"try `av2t predict clip.mp4 --out result --model {made.name}`"
    print(f"{made.name} is in {made.directory.parent}, {size} with all its parts: {use}", flush=True)
    share(made, settings)


def _fetch_and_convert(version: NewVersion, wanted: "Published", file: str | None, models_dir: Path) -> None:
    """Each file is converted before the next one is fetched, so an interruption costs no more than one conversion."""
    from av2t_core.versions import hub

    sources = published.encoders(version.preset)
    try:
        hub.connect()
    except WeightsError as error:
        names = ", ".join(source.where for source in (wanted, *sources.values()))
        raise WeightsError(
            f"{told(error)}; or bring {names} from elsewhere and run `av2t weights import {version.preset} FILE…`"
        ) from None
    parts = encoder_parts(models_dir, version.preset)
    fetches = {
        encoder: [file for each in source.sources for file in _choose(each)]
        for encoder, source in sources.items()
        if encoder not in parts
    }
    checkpoint = _choose(wanted, file)
    files = [each for group in (*fetches.values(), checkpoint) for each in group]
    downloads = models_dir / DOWNLOADS_FOLDER
    total = sum(file.size for file in files)
    missing = total - sum(hub.downloaded(file, downloads) for file in files)
    require_space(models_dir, missing + total, f"{version.name}, fetched and converted,")
    repositories = ", ".join(dict.fromkeys(file.repository for file in files))
    note(f"{version.name}: {in_gigabytes(missing)} to fetch from {repositories}")
    try:
        for encoder, group in fetches.items():
            with _fetched(group, downloads, encoder) as (label, state):
                parts[encoder] = save_encoder(models_dir, label, encoder, state)
        with _fetched(checkpoint, downloads, wanted.kind) as (label, state):
            if (models_dir / version.name).exists():
                note(f"{version.name} lacks files, and is made again")
                shutil.rmtree(models_dir / version.name)
            first = checkpoint[0]
            where = {"repository": first.repository, "revision": first.revision, "file": first.name}
            version = replace(version, source={**version.source, **where})
            save_model(models_dir, label, wanted.kind, state, version, parts)
    except KeyboardInterrupt:
        note("what was fetched is kept: the same command goes on with it")
        raise


def _choose(wanted: "Published", name: str | None = None) -> "list[RemoteFile]":
    """What a repository holds of `wanted`, or its file of this name. WeightsError: not there, or not to be verified."""
    from av2t_core.versions import hub

    files = {file.name: file for file in hub.list_files(wanted.repository)}
    if name is not None and name not in files:
        raise WeightsError(f"{wanted.repository} holds no {name}; it holds {', '.join(sorted(files)) or 'nothing'}")
    found = [files[each] for each in ([name] if name is not None else published.find(wanted, list(files)))]
    for file in found:
        if not file.checksum:
            raise WeightsError(
                f"the hub knows no checksum of {file.name} in {wanted.repository}, so it cannot be checked: look at it"
                f" at {wanted.page}, and use `av2t weights import` if you trust it"
            )
    return found


@contextmanager
def _fetched(
    files: "Sequence[RemoteFile]", downloads: Path, expected: str
) -> "Iterator[tuple[str, dict[str, Tensor]]]":
    """The state dict in these files, and what errors call it. They are removed once the caller has converted it."""
    from av2t_core.versions import hub

    paths = [hub.download(file, downloads, BARS) for file in files]
    labels = [f"{file.name} of {file.repository}" for file in files]
    label = labels[0]
    note(f"converting {label}")
    from av2t_core.versions.conversion import kind_of
    from av2t_core.versions.state_file import read_state_file

    state = read_state_file(*paths, labels=labels)
    if (kind := kind_of(label, state)) != expected:
        raise WeightsError(f"{label} is {kind}, and not {expected}; choose another with --file")
    yield label, state
    for path in paths:
        path.unlink()


def list_weights(*, json: Json = False) -> None:
    """Show which weights there are, and how to get the others."""
    models_dir = load_settings(ModelSettings).models_dir
    found = _overview(models_dir)
    report(found, _lines(found), json=json, indent=2)
    for sentence in damaged(models_dir).values():
        note(sentence)


def _overview(models_dir: Path) -> dict[str, Any]:
    versions = installed(models_dir)
    users: dict[str, list[str]] = {path.name: [] for path in sorted((models_dir / PARTS_FOLDER).glob("*.safetensors"))}
    for version in versions:
        for part in version.card.parts:
            users.setdefault(part.file, []).append(version.name)
    # What somebody trained is no published model.
    models = {version.card.preset for version in versions if version.card.is_fresh}
    downloads = [path for path in (models_dir / DOWNLOADS_FOLDER).glob("*") if path.is_file()]
    return {
        "directory": str(models_dir),
        "versions": [_version(version) for version in versions],
        "parts": [
            {"file": file, "bytes": _size(models_dir / PARTS_FOLDER / file), "versions": names}
            for file, names in users.items()
        ],
        "missing": [
            {
                "preset": preset,
                "published": (known := published.is_known(preset)),
                "gigabytes": round(published.gigabytes(preset, only_start=not known), 1),
                "command": f"av2t weights pull {preset}{'' if known else ' --start'}",
            }
            for preset in published.presets()
            if preset not in models
        ],
        "downloads": {"directory": str(models_dir / DOWNLOADS_FOLDER), "bytes": sum(map(_size, downloads))},
    }


def _version(version: Version) -> dict[str, Any]:
    return {
        "name": version.name,
        "preset": version.card.preset,
        "kind": "start" if version.card.start else "model",
        "bytes": _size(version.weights),
        "parts": [part.file for part in version.card.parts],
        "lacks": _lacking(version),
        "in_store": version.in_store,
        "built_in": version.is_built_in,
        "parent": version.card.parent,
        "source": version.card.source or None,
    }


def _lacking(version: Version) -> list[str]:
    """The files that it should have and has not, and the parent that it loads onto if that is gone."""
    missing = [str(path) for path, _ in version.own_files if not path.is_file() and not version.in_store]
    with suppress(WeightsError):
        _ = version.base
        return missing
    return [*missing, str(version.directory.with_name(str(version.card.parent)))]


def _size(path: Path) -> int | None:
    """None where it is missing."""
    return path.stat().st_size if path.exists() else None


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"Weights in {found['directory']}"]
    lines += table("Model versions", [_row(version) for version in found["versions"]])
    parts = [
        [part["file"], _shown(part["bytes"]), f"of {', '.join(part['versions']) or 'no version'}"]
        for part in found["parts"]
    ]
    lines += table("Parts that versions share", parts)
    missing = [
        [m["preset"], f"about {m['gigabytes']:.0f} GB", f"`{m['command']}`", "" if m["published"] else "to train from"]
        for m in found["missing"]
    ]
    lines += table("Not here yet", missing)
    if size := found["downloads"]["bytes"]:
        where = f"{in_gigabytes(size)} in {found['downloads']['directory']}"
        lines += ["", f"Fetched and not converted: {where}; the same pull goes on with it"]
    return lines


def _row(version: dict[str, Any]) -> list[str]:
    lacks = [f"lacks {Path(path).name}" for path in version["lacks"]]
    if version["parent"]:
        origin = f"trained from {version['parent']}"
    else:
        origin = "ships with the package" if version["built_in"] else (version["source"] or {}).get("command", "")
    size = "in the store" if version["bytes"] is None and version["in_store"] else _shown(version["bytes"])
    return [version["name"], version["kind"], size, "; ".join([*lacks, origin])]


def _shown(size: int | None) -> str:
    return "missing" if size is None else in_gigabytes(size)
