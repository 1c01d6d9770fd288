"""The first entry of each config's ``run``: settings checked before any work, errors shown as sentences."""

from __future__ import annotations

import sys
from types import TracebackType

from sam_lora.cli import sentence_of
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
    sentence = sentence_of(error)
    if sentence is None:
        sys.__excepthook__(kind, error, trace)
    else:
        print(f"error: {sentence}", file=sys.stderr)  # noqa: T201
