"""`av2t`: the table of commands. A command's module is imported when it is chosen, so that none pays for another."""

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import NoReturn

from av2t.remedies import told
from av2t_core.errors import AV2TError
from av2t_core.text import lines

COMMANDS = {
    "predict": ("av2t.commands.predict", "mask what sounds in one video, without Label Studio"),
    "up": ("av2t.stack.up", "start everything: queue, backend, worker and, if wanted, Label Studio with a demo"),
    "backend": ("av2t.commands.backend", "serve the ML backend that Label Studio connects to"),
    "worker": ("av2t.commands.worker", "work off the queues: pre-annotate clips, train on what was corrected"),
    "submit": ("av2t.commands.submit", "queue the tasks of a project, and watch them being pre-annotated"),
    "finetune": ("av2t.commands.finetune", "make a project's model better by what people corrected in it"),
    "status": ("av2t.commands.status", "show what is queued, running and failed"),
    "cancel": ("av2t.commands.cancel", "stop tasks or a training that wait or run"),
    "retry": ("av2t.commands.retry", "queue failed tasks again"),
    "doctor": ("av2t.commands.doctor", "find out what is not as it must be, and what to do about it"),
    "weights": ("av2t.commands.weights", "pull, import and list the published models' weights"),
    "models": ("av2t.commands.models", "list, compare, choose, delete, push, export and import model versions"),
    "compose": ("av2t.commands.compose", "compose training clips from cut-outs and recordings"),
    "data": ("av2t.commands.data", "look through a data set before training or evaluation"),
    "pretrain": ("av2t.commands.pretrain", "make the embedded model from nothing, of cut-outs"),
    "train": ("av2t.commands.train", "train a model version on AVSBench, by the paper's recipe"),
    "evaluate": ("av2t.commands.evaluate", "measure how right a model version is, on clips with known masks"),
    "scores": ("av2t.commands.scores", "measure how far a model version's scores can be trusted"),
    "reproduce": ("av2t.commands.reproduce", "train and measure the models of the paper's tables"),
    "bench": ("av2t.commands.bench", "measure how fast a model version is, and how much memory it takes"),
}

# With a model store they begin with what it has; the first ones run the model of --model here.
_RUN_MODEL = {"predict", "evaluate", "scores", "bench"}
_USE_MODELS = {
    *_RUN_MODEL,
    *("up", "backend", "worker", "submit", "finetune", "weights", "models", "train", "reproduce"),
}

_EPILOG = """examples:
  av2t up --demo                        Label Studio with demo clips that carry their masks
  av2t predict clip.mp4 --out result    the same for one file, into a folder
  av2t weights pull sam2-l              fetch the paper's model, for --model sam2-l

`av2t COMMAND --help` tells more about one command."""


class Parser(argparse.ArgumentParser):
    """Mistakes in what was typed are told like all others."""

    def error(self, message: str) -> NoReturn:
        raise AV2TError(f"{message}; see `{self.prog} --help`")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 2 for a mistake in what was asked, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except AV2TError as error:
        print(f"av2t: error: {lines(told(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("av2t: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe, such as head, has enough; Python would complain once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(arguments: Sequence[str]) -> int:
    command = arguments[0] if arguments else None
    if command is None or command.startswith("-"):
        parser = _parser()
        parser.parse_args(arguments)
        parser.print_help(sys.stderr)
        return 2
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"; did you mean `av2t {close[0]}`?" if close else f"; there are {', '.join(COMMANDS)}"
        raise AV2TError(f"there is no command {command!r}{hint}")
    name, help_line = COMMANDS[command]
    if find_spec(name) is None:
        raise AV2TError(f"this version has no `av2t {command}` yet")
    try:
        module = import_module(name)
        parser = Parser(
            prog=f"av2t {command}",
            description=help_line[0].upper() + help_line[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(parser)
        args = parser.parse_args(arguments[1:])
        if command in _USE_MODELS:
            from av2t.mirror import refresh

            refresh(args, runs_model=command in _RUN_MODEL)
        status: int = module.run(args)
    except ModuleNotFoundError as error:
        if error.name is None or find_spec(error.name.partition(".")[0]) is not None:
            raise
        raise AV2TError(
            f"`av2t {command}` needs the package {error.name}; install av2t-sam with its extras [model,embedded]"
        ) from error
    return status


def _parser() -> Parser:
    parser = Parser(
        prog="av2t",
        usage="av2t [--help] [--version] COMMAND ...",
        description="Sound-aware masks for video: AV2T-SAM for Label Studio.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"av2t {version('av2t-sam')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND ...")
    for name, (_, help_line) in COMMANDS.items():
        commands.add_parser(name, help=help_line)
    return parser


if __name__ == "__main__":
    sys.exit(main())
