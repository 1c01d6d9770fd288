"""What every command shares: a sentence and exit code 1 for what the user can mend, and help that fits a screen."""

from __future__ import annotations

import inspect
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fire
from fire import docstrings
from safetensors import SafetensorError


def run(commands: Any, name: str) -> None:
    """Run a fire command.

    A ValueError (all errors of this package are ones), or a file that cannot be written, becomes a sentence on stderr
    and exit code 1; wrong usage exits with 2, as fire does it.

    Args:
        commands: a function, or a dictionary of them.
        name: of the command, as help shows it.
    """
    warnings.filterwarnings("ignore")
    words = sys.argv[1:]
    if {"--help", "-h"} & {*words} or (isinstance(commands, Mapping) and not words):
        print(_help(commands, name, words))  # noqa: T201
        return
    try:
        fire.Fire(commands, name=name)
    except Exception as error:
        sentence = str(error) if isinstance(error, ValueError | OSError | SafetensorError) else sentence_of(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)  # noqa: T201
        raise SystemExit(1) from None


def _help(commands: Any, name: str, words: list[str]) -> str:
    """What fits a screen: the commands, or one command's options, a line or two each; fire's own help takes four."""
    if not isinstance(commands, Mapping):
        return _help_on(commands, name)
    command = next((word for word in words if word in commands), None)
    if command is not None:
        return _help_on(commands[command], f"{name} {command}")
    rows = [(one, (inspect.getdoc(do) or "").partition("\n")[0]) for one, do in commands.items()]
    return "\n".join([f"{name} COMMAND, one of:", "", *_columns(rows), "", f"{name} COMMAND --help says more."])


def _help_on(do: Callable[..., Any], name: str) -> str:
    text = docstrings.parse(inspect.getdoc(do) or "")
    meaning = {argument.name: argument.description for argument in text.args or []}
    parameters = inspect.signature(do).parameters.values()
    needed = [p.name.upper() for p in parameters if p.default is p.empty]
    rows = []
    for p in parameters:
        default = "" if p.default in (p.empty, None, False, (), "") else f" [{p.default}]"
        rows.append((p.name.upper() if p.default is p.empty else f"--{p.name}", meaning.get(p.name, "") + default))
    usage = " ".join([name, *needed, *(["[OPTIONS]"] if len(needed) < len(rows) else [])])
    more = textwrap.wrap(text.description or "", 100)
    return "\n".join([usage, "", *textwrap.wrap(text.summary or "", 100), *more, "", *_columns(rows)]).rstrip()


def _columns(rows: list[tuple[str, str]]) -> Iterator[str]:
    """Name and meaning side by side, the meaning wrapped."""
    width = max((len(name) for name, _ in rows), default=0) + 4
    for name, meaning in rows:
        yield textwrap.fill(meaning, 110, initial_indent=f"  {name}".ljust(width), subsequent_indent=" " * width)


def sentence_of(error: BaseException) -> str | None:
    """What to tell the user: the deepest error of this package below what others wrapped around it; None without one."""
    ours = [e for e in causes(error) if isinstance(e, ValueError) and _raised_here(e)]
    return str(ours[-1]) if ours else None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what caused it, down to the cause given by ``raise ... from``: below ours lie libraries'."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _raised_here(error: BaseException) -> bool:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).resolve().is_relative_to(Path(__file__).resolve().parent)
