"""`av2t models`: the model versions, and which one each project uses."""

import argparse
from collections.abc import Callable
from pathlib import Path

from av2t.commands import models_change, models_show
from av2t.options import count

_DESCRIPTION = """\
The model versions: what each was trained on and how good it is, and which one a project uses.

A version is named after the one that it came from, its project and its training: tiny-6-p3-7 was made of tiny-6 by
training 7, of what people annotated in project 3. It is never changed. A project uses the version that it is pinned to
in Label Studio, else the one that was promoted, by a training or here, else AV2T_MODEL.

With a model store (AV2T_MODELS_URL) all of this is said and done of what is there, for all machines that share it."""

_EXAMPLES = """\
examples:
  av2t models list --project 3
  av2t models show tiny-6-p3-7
  av2t models compare tiny-6-p3-6 tiny-6-p3-7
  av2t models promote tiny-6-p3-6 --project 3
  av2t models rollback --project 3
  av2t models export tiny-6-p3-7 barks.zip
  av2t models push tiny-6-p3-7

`av2t models COMMAND --help` tells more about one of them."""

_LIST = """\
List the model versions: what each loads onto, its project, when it was made, how large it is by itself, and its IoU
where something sounds, on clips that it has not learnt from, beside that of the version that it was trained from. With
a model store it says where each version is."""

_SHOW = """\
Show what a model version's card says: what it was trained on and how, what that did to its masks, and why it was
promoted or not."""

_COMPARE = """\
Show two model versions side by side: how good they are on clips that they have not learnt from, and what each was
trained on. It says so where those clips are not the same."""

_PROMOTE = """\
Have a project use this model version. Label Studio is told, and tasks that nobody has touched are queued for it, those
of the lowest score first, if AV2T_REPREDICT is always; if it is ask, you are asked. Earlier predictions stay."""

_PROMOTE_EXAMPLES = """\
examples:
  av2t models promote tiny-6-p3-7 --project 3
  av2t models promote tiny-6 --project 3          what the package ships

Predictions that tasks have of a version already are not made again."""

_ROLLBACK = """\
Have a project use the model version that it used before the current one. The current one stays, and can be promoted
again. Tasks are queued as by `av2t models promote`."""

_DELETE = """\
Delete a model version, and the parts that no other one needs. One that a project uses, or that another version loads
onto, is not deleted. Its predictions stay in Label Studio."""

_PUSH = """\
Bring model versions that are on this machine, and what they load onto, into the model store (AV2T_MODELS_URL). What is
made while there is one gets there by itself; this is for what was there before, or could not be brought there."""

_EXPORT = """\
Write a model version into one file, for `av2t models import` on another machine. It holds what is the version's own:
that machine needs what it loads onto, too."""

_EXPORT_EXAMPLES = """\
examples:
  av2t models export tiny-6-p3-7 barks.zip
  unzip -l barks.zip"""

_IMPORT = """\
Take a model version out of a file that `av2t models export` wrote. Everything in it is checked: its hashes, its names,
and that what it loads onto is here and is the same. Nothing that is here is replaced."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLES
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, action: Callable[[argparse.Namespace], int], help_line: str, description: str, epilog: str = ""
    ) -> argparse.ArgumentParser:
        plain = argparse.RawDescriptionHelpFormatter
        made = actions.add_parser(name, help=help_line, description=description, epilog=epilog, formatter_class=plain)
        made.set_defaults(action=action)
        return made

    show_all = command("list", models_show.show_all, "list the model versions", _LIST)
    show_all.add_argument("--project", type=count, metavar="N", help="those of project N and what it uses, alone")
    show = command("show", models_show.show, "show what is known of one", _SHOW)
    show.add_argument("name", metavar="NAME", help="model version, or preset for its newest one")
    compare = command("compare", models_show.compare, "show two side by side", _COMPARE)
    compare.add_argument("first", metavar="A")
    compare.add_argument("second", metavar="B")
    for reading in (show_all, show, compare):
        reading.add_argument("--json", action="store_true", help="print JSON")
    promote = command("promote", models_change.promote, "have a project use one", _PROMOTE, _PROMOTE_EXAMPLES)
    promote.add_argument("name", metavar="NAME")
    rollback = command("rollback", models_change.rollback, "have a project use what it used before", _ROLLBACK)
    for changing in (promote, rollback):
        changing.add_argument("--project", type=count, metavar="N", required=True)
    delete = command("delete", models_change.delete, "delete one that nothing uses", _DELETE)
    delete.add_argument("name", metavar="NAME")
    push = command("push", models_change.push, "bring some into the model store", _PUSH)
    push.add_argument("names", metavar="NAME", nargs="+")
    export = command("export", models_change.export, "write one into a file", _EXPORT, _EXPORT_EXAMPLES)
    export.add_argument("name", metavar="NAME")
    export.add_argument("file", metavar="FILE", type=Path, help="that is made, for example barks.zip")
    bring = command("import", models_change.bring, "take one out of a file", _IMPORT)
    bring.add_argument("file", metavar="FILE", type=Path)


def run(args: argparse.Namespace) -> int:
    status: int = args.action(args)
    return status
