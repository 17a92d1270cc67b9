"""The command line of every script: its options are a dataclass, and there is one way to end.

A script declares its settings once, as a frozen dataclass whose fields are `option(...)`s; `parse`
makes the command line from it, so an option's name, default and help stand in one line of code:

    @dataclass(frozen=True)
    class Settings:
        epochs: int = option(20, "passes over the training images", group="training")

    settings = parse(Settings, __doc__)

A script that imports torch at its top calls `answer_early` before. Its settings then stand in a module that needs
no torch.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import os
import signal
import sys
import traceback
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from skin import __version__
from skin.utils.core_watch import CoreWatch
from skin.utils.errors import UserError, printable
from skin.utils.hardware import let_threads_spin
from skin.utils.home import user_path
from skin.utils.known_errors import advice_on
from skin.utils.launchers import by_torchrun, refuse_bare_launcher
from skin.utils.processes import end_children, end_now, leave
from skin.utils.signals import STOP_SIGNALS, StopWatch, end

SettingsT = TypeVar("SettingsT")


def option(default: Any, help: str, *, group: str = "options", **argparse_keywords: Any) -> Any:
    """Return a dataclass field that is also a command line option.

    The field's name gives the flag (`batch_size` -> `--batch-size`) and its annotation the type:
    `bool` is a switch, `X | None` takes an X. `argparse_keywords` (choices, metavar, nargs, const,
    action, positional=True) pass through to `ArgumentParser.add_argument`.
    """
    return dataclasses.field(default=default, metadata={"help": help, "group": group, **argparse_keywords})


def options(settings_class: type[Any]) -> list[dataclasses.Field[Any]]:
    """Return the fields of a settings class that are options; a script computes the others from them."""
    return [field for field in dataclasses.fields(settings_class) if "group" in field.metadata]


def flag_of(name: str) -> str:
    """Return the flag of a field: `batch_size` -> `--batch-size`."""
    return f"--{name.replace('_', '-')}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


class Names(argparse.Action):
    """An option that may be given several times; the first time, it replaces the default."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*(() if before is self.default else before), values])


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help with the defaults said, no wider than the terminal."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)

    def _get_help_string(self, action: argparse.Action) -> str:
        help = action.help or ""
        nothing = any(action.default is d for d in (None, False, argparse.SUPPRESS)) or action.default in ("", ())
        unsaid = not nothing and "default" not in help
        silent = not (unsaid and action.option_strings)
        return help if silent else help + " (default: %(default)s)"


def parse(
    settings_class: type[SettingsT],
    description: str | None,
    argv: Sequence[str] | None = None,
    defaults: dict[str, Any] | None = None,
) -> SettingsT:
    """Return the command line (`argv`, or the process's own) as an instance of `settings_class`.

    `defaults` replace those of the class. The command line goes before both.

    Raises:
        UserError: an option is unknown, or a value has the wrong type or is none of the choices.
    """
    parser = _Parser(description=description, formatter_class=_Help, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    groups: dict[str, Any] = {"options": parser}  # which has its own group of that title
    types_of = typing.get_type_hints(settings_class)
    for field in options(settings_class):
        keywords = dict(field.metadata)
        title = keywords.pop("group")
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        group = groups[title]
        kind = _value_type(types_of[field.name])
        keywords["help"] = keywords["help"].replace("%", "%%")
        if keywords.pop("positional", False):
            group.add_argument(field.name, type=kind, default=field.default, **keywords)
        else:
            if kind is bool:
                keywords["action"] = "store_true"
            elif "action" not in keywords:
                keywords["type"] = kind
            group.add_argument(flag_of(field.name), default=field.default, **keywords)
    parser.set_defaults(**(defaults or {}))
    values = vars(parser.parse_args(argv))
    return settings_class(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def answer_early(settings_class: type[Any], description: str | None) -> None:
    """Answer `--help` or a mistyped option and leave; do nothing if the command line is sound.

    A script calls this before it imports torch, which takes seconds. Under torchrun it does nothing: all processes
    have to end together there, and `main` sees to that. A package that the imports then miss is one line, too. Torch
    will let its threads spin, which `run` watches over.
    """
    sys.excepthook = _say_what_is_missing
    let_threads_spin()
    if by_torchrun():
        return
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            parse(settings_class, description)
    except (UserError, SystemExit):
        run(lambda: bool(parse(settings_class, description)))  # the same again, and out loud


def _say_what_is_missing(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    """Say in one line that a package is not installed or has no room, and leave with code 2; print others as usual.

    Ctrl-C while the packages are imported is no error: the code is that of `run`.
    """
    if issubclass(kind, KeyboardInterrupt):
        raise SystemExit(130)
    line = advice_on(error) if isinstance(error, (ImportError, MemoryError, OSError)) else None
    if line is not None:
        raise SystemExit(fail(line))
    sys.__excepthook__(kind, error, trace)


def _value_type(annotation: Any) -> Any:
    """Return what reads one value of a field: `int` for `int | None`, `str` for `tuple[str, ...]`.

    A `Path` is read with `~` replaced.
    """
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    if typing.get_origin(annotation) in (tuple, list):
        annotation = typing.get_args(annotation)[0]
    return user_path if annotation is Path else annotation


def plain(settings: Any) -> dict[str, Any]:
    """Return a settings dataclass as JSON-ready values: numbers, strings, None, lists; a path becomes a string."""

    def convert(value: Any) -> Any:
        if isinstance(value, Path):
            return os.fspath(value)
        if isinstance(value, (tuple, list)):
            return [convert(v) for v in value]
        return value

    return {f.name: convert(getattr(settings, f.name)) for f in options(type(settings))}


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main` and leave with its exit code.

    A `UserError`, or an error that `known_errors` explains, is one line on stderr and code 2. Any other exception is
    a traceback and code 1. Ctrl-C is 130, SIGTERM 143. A reader that closes our pipe ends us quietly, as it ends any
    Unix filter. In each case this process and its children are gone within seconds.
    """
    for number in STOP_SIGNALS:
        if number != signal.SIGINT and signal.getsignal(number) is not signal.SIG_IGN:  # nohup's
            signal.signal(number, end)
    for stream in (sys.stdout, sys.stderr):  # None where the caller closed it
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # a letter that the output's encoding lacks
    with StopWatch(end_now), CoreWatch():
        try:
            try:
                refuse_bare_launcher(os.environ, Path(sys.argv[0]).name)
                code = main() or 0
                if sys.stdout is not None:
                    sys.stdout.flush()
            finally:
                end_children()  # now: an exception keeps loaders alive, which would wait for their processes
        except UserError as error:
            code = fail(str(error))
        except KeyboardInterrupt:
            code = 130
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 141
        except Exception as error:
            known = isinstance(error, (RuntimeError, MemoryError, OSError, ImportError))
            line = advice_on(error) if known else None
            if line is None:
                traceback.print_exc()
            code = 1 if line is None else fail(line)
    leave(code)


def fail(message: str) -> int:
    """Print `message` as one line on stderr, and return the exit code to leave with.

    It is the last line: an object that the error left half made, such as torch's iterator of a loader, may raise as
    it is removed, and Python would print that.
    """
    sys.unraisablehook = lambda unraisable: None
    print(f"error: {printable(message, limit=2000)}", file=sys.stderr)
    return 2
