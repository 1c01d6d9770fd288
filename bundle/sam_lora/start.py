"""The first entry of each config's ``run``: settings checked before any work, errors shown as sentences."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from sam_lora.runs import executed_config
from sam_lora.settings import check_names, check_values


def start_run() -> None:
    """Begin a run of ``python -m monai.bundle run``: the first entry of each config's ``run``.

    From here on an error of ours ends the run with its sentence and exit code 1 instead of a traceback through MONAI,
    and settings that cannot be meant are refused before any work. Other programs that execute a config keep their
    own error handling.

    Raises:
        ValueError: if a setting has an unknown name or an impossible value.
    """
    main = getattr(sys.modules["__main__"], "__spec__", None)
    if main is not None and main.name == "monai.bundle.__main__":
        sys.excepthook = _print_sentence
        check_names(sys.argv[1:])
    check_values(executed_config())


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
