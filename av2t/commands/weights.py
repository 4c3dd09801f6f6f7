"""`av2t weights`: the published models' weights, fetched or taken from files, and what there is of them."""

import argparse
from pathlib import Path

from av2t.commands import weights_import, weights_list, weights_pull
from av2t.mirror import share
from av2t_core.files import in_gigabytes
from av2t_core.versions import published
from av2t_core.versions.version import Version
from worker.settings import Settings

_DESCRIPTION = """\
The weights of the published models: fetch them, take them from files that are here, or see what there is.

They become model versions in AV2T_DATA_DIR/models (.av2t/models), for use as --model or AV2T_MODEL. A version of the
paper's model is named after its preset and the part of AVSBench that it was trained on, as sam2-l-ms3; the preset's
name alone means its newest version.
"""
_EXAMPLES = """\
examples:
  av2t weights pull sam2-l                            the paper's model, about 5 GB
  av2t weights pull sam1-h-noadapter --dataset s4     another row of its Table 1
  av2t weights pull sam2-l --start                    EVF-SAM2 alone, to train a model from
  av2t weights import sam2-l run_mul_adapter_evf_sam2_s4_best.pth \\
      open_clip_model.safetensors CLAP_weights_2023.pth merges.txt
  av2t weights list

`av2t weights COMMAND --help` tells more about one of them."""
_PULL = """\
Fetch a published model and its encoders from the model hub, check them, and convert them once.

A pull that is interrupted goes on where it was when the same command runs again. What was fetched is deleted as soon as
it is converted; meanwhile about twice its size must be free. HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and the variables of
a proxy are heeded. Pickled files are read as data and never run.
"""
_PULL_EXAMPLES = """\
examples:
  av2t weights pull sam2-l
  av2t weights pull sam2-l --feature clap --dataset s4
  av2t weights pull sam2-l --file somebody_mul_adapter_evf_sam2_ms3_best.pth
"""
_IMPORT = """\
Take weights from files that are here: the checkpoints of AV2T-SAM and EVF-SAM, and those of the encoders. MS-CLAP reads
names by GPT-2's tokens, so merges.txt of openai-community/gpt2 goes with it.

What a file is, is told from its content. EVF-SAM alone becomes a start for training. Encoders that were pulled or
imported before need not be given again, and can be imported before the model. The files stay as they are.
"""
_IMPORT_EXAMPLES = """\
examples:
  av2t weights import sam2-l run_mul_adapter_evf_sam2_s4_best.pth \\
      open_clip_model.safetensors CLAP_weights_2023.pth merges.txt
  av2t weights import sam2-l best.pth --feature mul --name mine-1
  av2t weights import sam2-l model-00001-of-00002.safetensors model-00002-of-00002.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLES
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, help_line: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
        plain = argparse.RawDescriptionHelpFormatter
        return actions.add_parser(name, help=help_line, description=description, epilog=epilog, formatter_class=plain)

    pull = command("pull", "fetch a published model from the model hub", _PULL, _PULL_EXAMPLES)
    pull.set_defaults(action=weights_pull.pull)
    _add_row(pull, default_feature="mul")
    pull.add_argument(
        "--dataset",
        choices=published.DATASETS,
        help="the part of AVSBench that it was trained on: ms3, where several things sound as in most video, or s4,"
        f" where one does (default: {published.DEFAULT_DATASET})",
    )
    pull.add_argument("--start", action="store_true", help="EVF-SAM's weights alone, to train a model from")
    pull.add_argument("--file", metavar="NAME", help="the checkpoint in its repository, where pull does not find it")
    bring = command("import", "take weights from files that are here", _IMPORT, _IMPORT_EXAMPLES)
    bring.set_defaults(action=weights_import.take)
    _add_row(bring, default_feature="as the checkpoint's name says")
    kinds = ".pth, .pt, .bin or .safetensors, and merges.txt"
    bring.add_argument("files", metavar="FILE", nargs="+", type=Path, help=kinds)
    bring.add_argument("--name", help="of the model version (default: after the checkpoint's name)")
    show = command("list", "show which weights there are", "Show which weights there are, and how to get the others.")
    show.set_defaults(action=weights_list.show)
    show.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    made = args.action(args, Settings.load().models_dir)
    if made is not None:
        print(_report(made), flush=True)
        share(made)
    return 0


def _add_row(parser: argparse.ArgumentParser, default_feature: str) -> None:
    parser.add_argument("preset", metavar="PRESET", choices=published.presets(), help=", ".join(published.presets()))
    parser.add_argument(
        "--feature",
        choices=published.FEATURES,
        help="what prompts SAM: CLIP's and CLAP's product, or one of them, as in the paper's Table 2 (default:"
        f" {default_feature})",
    )


def _report(version: Version) -> str:
    size = in_gigabytes(sum(path.stat().st_size for path, _ in version.files))
    use = "from which a model can be trained"
    if not version.card.start:
        use = f"try `av2t predict clip.mp4 --out result --model {version.name}`"
    return f"{version.name} is in {version.directory.parent}, {size} with all its parts: {use}"
