"""What every command shares: a sentence and exit code 1 for what the user can mend, and help that fits a screen."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fire
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
    os.environ.setdefault("PAGER", "cat")  # fire pages its help, which fits a screen
    try:
        fire.Fire(commands, name=name)
    except Exception as error:
        sentence = str(error) if isinstance(error, ValueError | OSError | SafetensorError) else sentence_of(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)  # noqa: T201
        raise SystemExit(1) from None


def sentence_of(error: BaseException) -> str | None:
    """What to tell the user: the deepest error of this package below what others wrapped around it; None without one."""
    ours = [e for e in _chain(error) if isinstance(e, ValueError) and _raised_here(e)]
    return str(ours[-1]) if ours else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what caused it, down to the cause given by ``raise ... from``: below ours lie libraries'."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _raised_here(error: BaseException) -> bool:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).resolve().is_relative_to(Path(__file__).resolve().parent)
