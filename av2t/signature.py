"""A command is a function: its signature is its command line, and its docstring its help."""

import argparse
import difflib
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from importlib import import_module
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

from av2t_core.errors import AV2TError

Table = Mapping[str, tuple[str, str]]
"""Name: the "module:name" of a command or of another table, and a line about it."""


@dataclass(frozen=True)
class Arg:
    """What the command line says of a parameter beside its name, type and default; a function beside it in `Annotated`
    reads the value. A Sequence's values follow one option, each of a list's has its own, and a dataclass is its fields.

    `exclusive`: one of these options must be given, and only one. `group`: the title above the option.
    """

    help: str = ""
    metavar: str | None = None
    choices: Sequence[str] | None = None
    exclusive: bool = False
    group: str | None = None


class Parser(argparse.ArgumentParser):
    """Mistakes in what was typed are told like all others."""

    def __init__(self, prog: str, about: str, usage: str | None = None) -> None:
        description, mark, examples = about.partition("\n\nexample")
        plain = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, usage, description=description, epilog=(mark + examples).strip(), formatter_class=plain)

    def error(self, message: str) -> NoReturn:
        raise AV2TError(f"{message}; see `{self.prog} --help`")


def choose(parser: Parser, table: Table, words: Sequence[str]) -> int:
    """Run the command of `table` that `words` begin with; its exit status. Without one the help is shown."""
    if not words or words[0].startswith("-"):
        parser.usage = parser.usage or f"{parser.prog} [-h] COMMAND ..."
        commands = parser.add_subparsers(title="commands", metavar="COMMAND ...", parser_class=argparse.ArgumentParser)
        for name, (_, line) in table.items():
            commands.add_parser(name, help=line)
        parser.parse_args(words)
        parser.print_help(sys.stderr)
        return 2
    name, *rest = words
    if name not in table:
        close = difflib.get_close_matches(name, table, n=1)
        hint = f"did you mean `{parser.prog} {close[0]}`?" if close else f"there are {', '.join(table)}"
        raise AV2TError(f"there is no command {name!r}; {hint}")
    module, _, attribute = table[name][0].partition(":")
    command: Any = getattr(import_module(module), attribute)
    prog = f"{parser.prog} {name}"
    if isinstance(command, Mapping):
        return choose(Parser(prog, inspect.getdoc(sys.modules[module]) or ""), command, rest)
    own = Parser(prog, inspect.getdoc(command) or "")
    _add_options(own, command)
    return _called(command, vars(own.parse_args(rest))) or 0


def _add_options(parser: Any, of: Any) -> None:
    groups: dict[str | None, Any] = {}
    exclusive = None
    for name, parameter, hint, notes in _parameters(of):
        arg = next((note for note in notes if isinstance(note, Arg)), Arg())
        if arg.group and arg.group not in groups:
            groups[arg.group] = parser.add_argument_group(arg.group)
        target = groups.get(arg.group, parser)
        if is_dataclass(hint):
            _add_options(target, hint)
            continue
        if arg.exclusive:
            target = exclusive = exclusive or parser.add_mutually_exclusive_group(required=True)
        options = _options(arg, hint, notes, parameter.default)
        if parameter.kind is parameter.KEYWORD_ONLY:
            target.add_argument(f"--{name.replace('_', '-')}", required="default" not in options, **options)
        else:
            target.add_argument(name, **({"nargs": "?"} if "default" in options else {}), **options)


def _parameters(of: Any) -> Iterator[tuple[str, inspect.Parameter, Any, list[Any]]]:
    """Its name, itself, its type without None, and what Annotated has beside that."""
    for name, parameter in inspect.signature(of).parameters.items():
        hint, notes = parameter.annotation, []
        while get_origin(hint) in (Annotated, Union, UnionType):
            hint, *more = (part for part in get_args(hint) if part is not NoneType)
            notes += more
        yield name, parameter, hint, notes


def _options(arg: Arg, hint: Any, notes: Sequence[Any], default: Any) -> dict[str, Any]:
    """How argparse gets from words to a value of this type. The help says the default where it does not yet."""
    options: dict[str, Any] = {"help": arg.help or None}
    if default is not inspect.Parameter.empty:
        options["default"] = default
        if default not in (None, ()) and not isinstance(default, bool) and "default" not in arg.help:
            options["help"] = f"{arg.help} (default: {default})" if arg.help else f"default: {default}"
    if hint is bool:
        return {**options, "action": "store_true" if default is False else argparse.BooleanOptionalAction}
    read = next((note for note in notes if not isinstance(note, Arg)), None)
    if read is None and get_origin(hint) in (list, Sequence):
        options |= {"action": "append"} if get_origin(hint) is list else {"nargs": "+"}
        hint, *_ = get_args(hint)
    choices = get_args(hint) if get_origin(hint) is Literal else arg.choices
    kind = read or (type(choices[0]) if choices else hint)
    return options | {"type": kind, "choices": choices, "metavar": arg.metavar}


def _called(of: Any, values: Mapping[str, Any]) -> Any:
    return of(**{name: _called(t, values) if is_dataclass(t) else values[name] for name, _, t, _ in _parameters(of)})
