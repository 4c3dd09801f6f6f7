"""`av2t`: the table of commands. A command's module is imported when it is chosen, so that none pays for another."""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from io import TextIOWrapper

from av2t.signature import Parser, Table, choose
from av2t_core.errors import AV2TError
from av2t_core.text import lines

COMMANDS: Table = {
    "predict": ("av2t.commands.predict:predict", "mask what sounds in videos, without Label Studio"),
    "up": ("av2t.stack.up:up", "start everything: queue, backend, worker and, if wanted, Label Studio with a demo"),
    "backend": ("av2t.commands.services:backend", "serve the ML backend that Label Studio connects to"),
    "worker": ("av2t.commands.services:worker", "work off the queues: pre-annotate clips, train on what was corrected"),
    "submit": ("av2t.commands.queue:submit", "queue the tasks of a project, and watch them being pre-annotated"),
    "finetune": ("av2t.commands.queue:finetune", "make a project's model better by what people corrected in it"),
    "status": ("av2t.commands.queue:status", "show what is queued, running and failed"),
    "cancel": ("av2t.commands.queue:cancel", "stop tasks or a training that wait or run"),
    "retry": ("av2t.commands.queue:retry", "queue failed tasks again"),
    "doctor": ("av2t.commands.doctor:doctor", "find out what is not as it must be, and what to do about it"),
    "weights": ("av2t.commands.weights:COMMANDS", "pull, import and list the published models' weights"),
    "models": ("av2t.commands.models:COMMANDS", "list, compare, choose, delete, push, export, import model versions"),
    "compose": ("av2t.commands.data:compose", "compose training clips from cut-outs and recordings"),
    "data": ("av2t.commands.data:COMMANDS", "look through a data set before training or evaluation"),
    "pretrain": ("av2t.commands.train:pretrain", "make tiny, the tests' model, from nothing, of cut-outs"),
    "train": ("av2t.commands.train:train", "train a model version on AVSBench, by the paper's recipe"),
    "evaluate": ("av2t.commands.evaluate:evaluate", "measure how right a model version is, on clips with known masks"),
    "scores": ("av2t.commands.evaluate:scores", "measure how far a model version's scores can be trusted"),
    "reproduce": ("av2t.commands.reproduce:reproduce", "train and measure the models of the paper's tables"),
    "bench": ("av2t.commands.bench:bench", "measure how fast a model version is, and how much memory it takes"),
}

_ABOUT = """Sound-aware masks for video: AV2T-SAM for Label Studio.

examples:
  av2t up --demo                        Label Studio with demo clips that carry their masks
  av2t predict clip.mp4 --out result    the same for one file, into a folder
  av2t weights pull sam2-l              fetch the paper's model, for --model sam2-l

`av2t COMMAND --help` tells more about one command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 2 for a mistake in what was asked, 130 after Ctrl-C."""
    words = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a terminal may not have all that names have
    try:
        try:
            parser = Parser("av2t", _ABOUT, usage="av2t [--help] [--version] COMMAND ...")
            parser.add_argument("--version", action="version", version=f"av2t {version('av2t-sam')}")
            return choose(parser, COMMANDS, words)
        finally:
            sys.stdout.flush()
    except AV2TError as error:
        from av2t.remedies import told  # not before: it brings what is published, which no help text needs

        print(f"av2t: error: {lines(told(error))}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name is None or find_spec(error.name.partition(".")[0]) is not None:
            raise
        needs = f"`av2t {words[0]}` needs the package {error.name}"
        print(f"av2t: error: {needs}; install av2t-sam with its extras [model,embedded]", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("av2t: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe, such as head, has enough; Python would complain once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
