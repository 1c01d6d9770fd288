"""What every command shares: a sentence and exit code 1 for what the user can mend, and help that fits a screen."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import fire


def run(commands: Any, name: str) -> None:
    """Run a fire command.

    A ValueError (all errors of this package are ones) becomes a sentence on stderr and exit code 1; wrong usage exits
    with 2, as fire does it.

    Args:
        commands: a function, or a dictionary of them.
        name: of the command, as help shows it.
    """
    warnings.filterwarnings("ignore")
    os.environ.setdefault("PAGER", "cat")  # fire pages its help, which fits a screen
    try:
        fire.Fire(commands, name=name)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(1) from None


def errors_as_sentences() -> None:
    """Let ``python -m monai.bundle run`` end with our sentence instead of a traceback through MONAI, exit code 1.

    The first entry of each config's ``run``. Other programs that execute a config keep their own error handling.
    """
    main = getattr(sys.modules["__main__"], "__spec__", None)
    if main is not None and main.name == "monai.bundle.__main__":
        sys.excepthook = _print_sentence


def _print_sentence(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    ours = [e for e in _chain(error) if isinstance(e, ValueError) and _raised_here(e)]
    if ours:
        print(f"error: {ours[-1]}", file=sys.stderr)  # noqa: T201
    else:
        sys.__excepthook__(kind, error, trace)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what caused it, down to the cause given by ``raise ... from``: below ours lie libraries'."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _raised_here(error: BaseException) -> bool:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).resolve().is_relative_to(Path(__file__).resolve().parent)
