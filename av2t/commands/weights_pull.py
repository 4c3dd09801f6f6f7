"""`av2t weights pull`: a published model from the hub to a model version."""

import argparse
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from av2t.console import note
from av2t.mirror import BARS
from av2t.remedies import how_to_train, told
from av2t_core.errors import WeightsError
from av2t_core.files import in_gigabytes, require_space
from av2t_core.model.config import Feature
from av2t_core.versions import published
from av2t_core.versions.folder import (
    NewVersion,
    alone,
    encoder_parts,
    keep_encoder,
    keep_model,
    whole,
)
from av2t_core.versions.names import DOWNLOADS_FOLDER
from av2t_core.versions.published import Published
from av2t_core.versions.version import Version

if TYPE_CHECKING:  # they bring torch and an HTTP client, for which nobody who is refused should wait
    from torch import Tensor

    from av2t_core.versions.conversion import ModelKind
    from av2t_core.versions.hub import RemoteFile


def pull(args: argparse.Namespace, models_dir: Path) -> Version | None:
    """The version that was made, or None if it was there. WeightsError."""
    version, wanted = _what_to_pull(args)
    if whole(models_dir, version.name, BARS):
        print(f"{version.name} is in {models_dir} already")
        return None
    with alone(models_dir):
        _fetch_and_keep(args, models_dir, version, wanted)
    return whole(models_dir, version.name, BARS)


def _what_to_pull(args: argparse.Namespace) -> tuple[NewVersion, Published]:
    """The version to be made, and its checkpoint as it is published."""
    command = f"av2t weights pull {args.preset}"
    feature: Feature = "mul"
    if args.start:
        if args.feature or args.dataset:
            raise WeightsError("--start is EVF-SAM, which knows neither --feature nor --dataset; leave them out")
        name, wanted = published.start_name(args.preset), published.start(args.preset)
        command += " --start"
    else:
        if not published.is_known(args.preset) and not args.file:
            raise WeightsError(
                f"no model of {args.preset} is known to be published: {how_to_train(args.preset)}; if you"
                " know of a checkpoint, name it with --file"
            )
        said = published.named(args.file or "")
        feature = published.agreed("--feature", args.feature, said.feature if said else None) or feature
        dataset = published.agreed("--dataset", args.dataset, said.dataset if said else None)
        dataset = dataset or published.DEFAULT_DATASET
        name = published.version_name(args.preset, feature, dataset)
        wanted = published.model(args.preset, feature, dataset)
        command += f" --feature {feature} --dataset {dataset}"
    if args.file:
        command += f" --file {args.file}"
    return NewVersion(name=name, preset=args.preset, feature=feature, source={"command": command}), wanted


def _fetch_and_keep(args: argparse.Namespace, models_dir: Path, version: NewVersion, wanted: Published) -> None:
    """Each file is converted before the next one is fetched, so an interruption costs no more than one conversion."""
    from av2t_core.versions import hub

    sources = {encoder: published.ENCODERS[encoder] for encoder in published.encoders(args.preset)}
    try:
        hub.connect()
    except WeightsError as error:
        names = ", ".join(source.where for source in (wanted, *sources.values()))
        raise WeightsError(
            f"{told(error)}; or bring {names} from elsewhere and run `av2t weights import {args.preset} FILE…`"
        ) from None
    parts = encoder_parts(models_dir, args.preset)
    fetches = {
        encoder: [file for each in source.sources for file in _choose(each)]
        for encoder, source in sources.items()
        if encoder not in parts
    }
    checkpoint = _choose(wanted, args.file)
    files = [file for group in (*fetches.values(), checkpoint) for file in group]
    downloads = models_dir / DOWNLOADS_FOLDER
    total = sum(file.size for file in files)
    missing = total - sum(hub.downloaded(file, downloads) for file in files)
    require_space(models_dir, missing + total, f"{version.name}, fetched and converted,")
    repositories = ", ".join(dict.fromkeys(file.repository for file in files))
    note(f"{version.name}: {in_gigabytes(missing)} to fetch from {repositories}")
    kind: ModelKind = "evf-sam" if args.start else "av2t-sam"
    try:
        for encoder, group in fetches.items():
            with _fetched(group, downloads, encoder) as (label, state):
                parts[encoder] = keep_encoder(models_dir, label, encoder, state)  # type: ignore[arg-type]
        with _fetched(checkpoint, downloads, kind) as (label, state):
            if (models_dir / version.name).exists():
                note(f"{version.name} lacks files, and is made again")
                shutil.rmtree(models_dir / version.name)
            first = checkpoint[0]
            where = {"repository": first.repository, "revision": first.revision, "file": first.name}
            version = replace(version, source={**version.source, **where})
            keep_model(models_dir, label, kind, state, version, parts)
    except KeyboardInterrupt:
        note("what was fetched is kept: the same command goes on with it")
        raise


def _choose(wanted: Published, name: str | None = None) -> "list[RemoteFile]":
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
