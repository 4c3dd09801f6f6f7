"""`av2t weights import`: checkpoints that are on this machine to a model version."""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from av2t.console import note
from av2t.mirror import BARS
from av2t_core.errors import WeightsError
from av2t_core.files import require_space
from av2t_core.model.config import Feature
from av2t_core.versions import published
from av2t_core.versions.folder import NewVersion, alone, encoder_parts, keep_encoder, keep_model, whole
from av2t_core.versions.names import check_name
from av2t_core.versions.version import Version

if TYPE_CHECKING:  # they bring torch, for which nobody who is refused should wait
    from torch import Tensor

    from av2t_core.versions.conversion import Kind

_MERGES: "Kind" = "gpt2-merges"
_SHARD = re.compile(r"-\d+-of-(\d+)")


@dataclass(frozen=True, kw_only=True)
class Given:
    """A state dict that was given. `label`: its file, or the first of its shards."""

    label: str
    kind: "Kind"
    state: "Mapping[str, Tensor]"


def take(args: argparse.Namespace, models_dir: Path) -> Version | None:
    """The version that was made, or None if the files are encoders alone. WeightsError."""
    given = _given(args.files, args.preset)
    model = next((each for each in given.values() if each.kind not in published.ENCODERS), None)
    version = model and _version_to_import(args, model, models_dir)
    with alone(models_dir):
        parts = encoder_parts(models_dir, args.preset)
        encoders = published.encoders(args.preset)
        lacking = [published.ENCODERS[encoder] for encoder in encoders if encoder not in {*parts, *given}]
        if model and lacking:
            names = " and ".join(source.where for source in lacking)
            raise WeightsError(f"{args.preset} needs its encoders, too: give {names} beside {model.label}")
        require_space(models_dir, sum(path.stat().st_size for path in args.files), f"{args.preset}, converted,")
        for each in given.values():
            note(f"converting {each.label}")
            if each is not model:
                parts[each.kind] = keep_encoder(models_dir, each.label, each.kind, each.state)  # type: ignore[arg-type]
        if model and version:
            keep_model(models_dir, model.label, model.kind, model.state, version, parts)  # type: ignore[arg-type]
    if version:
        return whole(models_dir, version.name, BARS)
    print(f"{' and '.join(given)} of {args.preset} are in {models_dir}; import the model's own checkpoint next")
    return None


def _given(paths: Sequence[Path], preset: str) -> "dict[str, Given]":
    """What the files are, by kind: the encoders first. WeightsError: rivals, or what the preset has no use for."""
    from av2t_core.versions.conversion import kind_of
    from av2t_core.versions.state_file import read_state_file

    given: dict[str, Given] = {}
    encoders = published.encoders(preset)
    usable = {*encoders, *([_MERGES] if "ms-clap" in encoders else [])}
    for group in _grouped(paths):
        state, label = read_state_file(*group), str(group[0])
        kind = kind_of(label, state)
        if kind in {*published.ENCODERS, _MERGES} and kind not in usable:
            raise WeightsError(f"{label} is {kind}; {preset} works with {' and '.join(encoders)}, leave it out")
        rival = given.get(kind) or next((g for g in given.values() if {g.kind, kind} == {"av2t-sam", "evf-sam"}), None)
        if rival:
            raise WeightsError(f"{rival.label} is {rival.kind} and {label} is {kind}: import one at a time")
        given[kind] = Given(label=label, kind=kind, state=state)
    _join_merges(given)
    return dict(sorted(given.items(), key=lambda item: item[0] not in encoders))


def _join_merges(given: "dict[str, Given]") -> None:
    """GPT-2's merges go into the MS-CLAP that reads by them. WeightsError: one is there without the other."""
    merges, clap = given.pop(_MERGES, None), given.get("ms-clap")
    if clap and merges:
        given["ms-clap"] = replace(clap, state={**clap.state, **merges.state})
    elif clap:
        [source] = published.ENCODERS["ms-clap"].beside
        raise WeightsError(f"{clap.label} reads names by GPT-2's tokens: give {source.where} beside it")
    elif merges:
        source = published.ENCODERS["ms-clap"]
        file = f"{source.example} of {source.repository}"
        raise WeightsError(f"{merges.label} is what MS-CLAP reads by: give {file} beside it")


def _grouped(paths: Sequence[Path]) -> list[list[Path]]:
    """Files by state dict. WeightsError: shards, which are numbered as in model-00001-of-00002.safetensors, lack."""
    groups: dict[Path, list[Path]] = {}
    for path in paths:
        groups.setdefault(path.with_name(_SHARD.sub("", path.name)), []).append(path)
    for group in groups.values():
        shard = _SHARD.search(group[0].name)
        if shard and len(group) != int(shard[1]):
            raise WeightsError(f"{group[0]} is one of {int(shard[1])} files that belong together: give all of them")
    return list(groups.values())


def _version_to_import(args: argparse.Namespace, model: Given, models_dir: Path) -> NewVersion:
    file = Path(model.label).name
    said = published.named(file)
    feature: Feature | None = args.feature
    if model.kind == "evf-sam":
        name = args.name or published.start_name(args.preset)
        feature = feature or "mul"
    else:
        feature = published.agreed("--feature", feature, said.feature if said else None)
        if feature is None:
            raise WeightsError(f"the name of {file} does not say which feature it was trained with: add --feature")
        name = args.name or (published.version_name(args.preset, feature, said.dataset) if said else None)
        if name is None:
            raise WeightsError(f"the name of {file} does not say what it was trained on: name the version with --name")
    check_name(name)
    if (models_dir / name).exists():
        raise WeightsError(f"{models_dir / name} exists; a model version is never changed, choose another --name")
    command = f"av2t weights import {args.preset} {' '.join(map(str, args.files))} --feature {feature} --name {name}"
    return NewVersion(name=name, preset=args.preset, feature=feature, source={"command": command, "file": file})
