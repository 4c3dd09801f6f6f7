"""`av2t weights import`: checkpoints that are on this machine to a model version."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from av2t.commands.weights import FEATURE, PresetName, finish
from av2t.console import note
from av2t.options import load_settings
from av2t.signature import Arg
from av2t_core.errors import WeightsError
from av2t_core.files import require_space
from av2t_core.model.config import Feature
from av2t_core.settings import ModelSettings
from av2t_core.versions import published
from av2t_core.versions.names import check_name, require_new
from av2t_core.versions.saving import NewVersion, alone, encoder_parts, save_encoder, save_model

if TYPE_CHECKING:  # they bring torch, for which nobody who is refused should wait
    from torch import Tensor


_SHARD = re.compile(r"-\d+-of-(\d+)")


@dataclass(frozen=True, kw_only=True)
class Given:
    """A state dict that was given. `label`: its file, or the first of its shards."""

    label: str
    kind: str
    state: "Mapping[str, Tensor]"


def import_files(
    preset: PresetName,
    files: Annotated[Sequence[Path], Arg(".pth, .pt, .bin or .safetensors, and merges.txt", "FILE")],
    *,
    feature: Annotated[Feature | None, Arg(FEATURE.format("as the checkpoint's name says"))] = None,
    name: Annotated[str | None, Arg("of the model version (default: after the checkpoint's name)")] = None,
) -> None:
    """Take weights from files that are here: the checkpoints of AV2T-SAM and EVF-SAM, and those of the encoders.
    MS-CLAP reads names by GPT-2's tokens, so merges.txt of openai-community/gpt2 goes with it.

    What a file is, is told from its content. EVF-SAM alone becomes a start for training. Encoders that were pulled or
    imported before need not be given again, and can be imported before the model. The files stay as they are.

    examples:
      av2t weights import sam2-l run_mul_adapter_evf_sam2_s4_best.pth \\
          open_clip_model.safetensors CLAP_weights_2023.pth merges.txt
      av2t weights import sam2-l best.pth --feature mul --name mine-1
      av2t weights import sam2-l model-00001-of-00002.safetensors model-00002-of-00002.safetensors
    """
    settings = load_settings(ModelSettings)
    models_dir = settings.models_dir
    from av2t_core.versions.conversion import is_model

    given = _given(files, preset)
    model = next((each for each in given.values() if is_model(each.kind)), None)
    version = model and _version_to_import(model, preset, feature, name, files, models_dir)
    with alone(models_dir):
        parts = encoder_parts(models_dir, preset)
        encoders = published.encoders(preset)
        lacking = [source for encoder, source in encoders.items() if encoder not in {*parts, *given}]
        if model and lacking:
            names = " and ".join(source.where for source in lacking)
            raise WeightsError(f"{preset} needs its encoders, too: give {names} beside {model.label}")
        require_space(models_dir, sum(path.stat().st_size for path in files), f"{preset}, converted,")
        for each in given.values():
            note(f"converting {each.label}")
            if each is not model:
                parts[each.kind] = save_encoder(models_dir, each.label, each.kind, each.state)
        if model and version:
            save_model(models_dir, model.label, model.kind, model.state, version, parts)
    if version:
        finish(version.name, settings)
    else:
        print(f"{' and '.join(given)} of {preset} are in {models_dir}; import the model's own checkpoint next")


def _given(paths: Sequence[Path], preset: str) -> "dict[str, Given]":
    """What the files are, by kind: the encoders first. WeightsError: rivals, or what the preset has no use for."""
    from av2t_core.versions.conversion import is_model, kind_of
    from av2t_core.versions.state_file import read_state_file

    given: dict[str, Given] = {}
    encoders = published.encoders(preset)
    usable = {*encoders, *(other.kind for source in encoders.values() for other in source.beside)}
    for group in _grouped(paths):
        state, label = read_state_file(*group), str(group[0])
        kind = kind_of(label, state)
        if not is_model(kind) and kind not in usable:
            raise WeightsError(f"{label} is {kind}; {preset} works with {' and '.join(encoders)}, leave it out")
        models = [each for each in given.values() if is_model(each.kind) and is_model(kind)]
        if rival := given.get(kind) or next(iter(models), None):
            raise WeightsError(f"{rival.label} is {rival.kind} and {label} is {kind}: import one at a time")
        given[kind] = Given(label=label, kind=kind, state=state)
    # What goes beside an encoder's weights into them: neither is of use without the other.
    for source in encoders.values():
        for other in source.beside:
            beside, encoder = given.pop(other.kind, None), given.get(source.kind)
            if encoder and beside:
                given[source.kind] = replace(encoder, state={**encoder.state, **beside.state})
            elif encoder:
                raise WeightsError(f"{encoder.label} needs {other.what}: give {other.where} beside it")
            elif beside:
                raise WeightsError(
                    f"{beside.label} is {other.what}: give {source.example} of {source.repository} beside it"
                )
    return dict(sorted(given.items(), key=lambda item: item[0] not in encoders))


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


def _version_to_import(
    model: Given, preset: str, feature: Feature | None, name: str | None, files: Sequence[Path], models_dir: Path
) -> NewVersion:
    file = Path(model.label).name
    said = published.named(file)
    if model.kind != published.MODEL:
        name = name or published.start_name(preset)
        feature = feature or "mul"
    else:
        feature = published.agreed("--feature", feature, said.feature if said else None)
        if feature is None:
            raise WeightsError(f"the name of {file} does not say which feature it was trained with: add --feature")
        name = name or (published.version_name(preset, feature, said.dataset) if said else None)
        if name is None:
            raise WeightsError(f"the name of {file} does not say what it was trained on: name the version with --name")
    require_new(models_dir / check_name(name))
    command = f"av2t weights import {preset} {' '.join(map(str, files))} --feature {feature} --name {name}"
    return NewVersion(name=name, preset=preset, feature=feature, source={"command": command, "file": file})
