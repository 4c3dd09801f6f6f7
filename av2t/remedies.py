"""What a person does about an error: the remedies of `av2t_core.errors` in this program's commands and variables."""

from av2t_core.errors import AV2TError, Remedy
from av2t_core.model.presets import PRESETS, SEGMENTERS
from av2t_core.versions import published

_WORDS = {
    Remedy.CHECK_DATA: "`av2t data check {root} --layout {layout}` lists them all",
    Remedy.CHOOSE_FILE: "choose one with --file",
    Remedy.EXPORT: "bring it by `av2t models export {name} FILE` where it is and `av2t models import FILE` here",
    Remedy.FILE_OR_IMPORT: "if one of them is {what}, name it with --file, or fetch it from {page} and use"
    " `av2t weights import`",
    Remedy.GET_TRAINED: "choose another, or get the trained one, {weights}",
    Remedy.GET_WEIGHTS: "{weights}",
    Remedy.LIST_VERSIONS: "`av2t models list` shows what there is",
    Remedy.MAKE_ROOM: "or set AV2T_DATA_DIR to a folder on another disk; the same command goes on where it stopped",
    Remedy.MASK_BOXES: "AV2T_BOX_HINTS=true has rectangles count as masks",
    Remedy.MOVE_DATA: "set AV2T_DATA_DIR to a folder that can",
    Remedy.OTHER_FOLDER: "keep versions of different origin in different folders (AV2T_DATA_DIR)",
    Remedy.PROMOTE: "choose another one with `av2t models promote NAME --project {project}`",
    Remedy.PUSH: "`av2t models push {name}` first",
    Remedy.PUSH_WHOLE: "delete it there, and run `av2t models push {name}` on a machine that has it whole",
    Remedy.ROLLBACK: "go back with `av2t models rollback --project {project}`, or promote another one, first",
    Remedy.STORE_URL: "AV2T_MODELS_URL names it",
}


def told(error: Exception) -> str:
    """The error's sentence, and what to do about it."""
    if not isinstance(error, AV2TError) or error.remedy is None:
        return str(error)
    about = error.about
    if error.remedy in (Remedy.GET_WEIGHTS, Remedy.GET_TRAINED):
        about = {"weights": how_to_get(str(about["name"]))}
    mark = "; " if ": " in str(error) else ": "
    return f"{str(error).rstrip('.')}{mark}{_WORDS[error.remedy].format_map(about)}"


def how_to_get(name: str) -> str:
    """The weights of this preset or version; "" for a name that nothing is published under."""
    release = published.release(name)
    if release is None:
        return ""
    preset = release.preset
    by_hand = f"`av2t weights import {preset} FILE…` takes files that you have"
    if not (release.start or published.is_known(preset)):
        return f"no such model is known to be published; {by_hand}, {how_to_train(preset)}"
    options = " --start" if release.start else ""
    if release.dataset:
        feature = f" --feature {release.feature}" if release.feature != "mul" else ""
        options = f"{feature} --dataset {release.dataset}"
    size = published.gigabytes(preset, only_start=release.start)
    return f"`av2t weights pull {preset}{options}` fetches them (about {size:.0f} GB), {by_hand}"


def how_to_train(preset: str) -> str:
    what = SEGMENTERS[PRESETS[preset].segmenter].what
    return f"`av2t weights pull {preset} --start` fetches {what} to train one from"
