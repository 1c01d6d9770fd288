"""What every command shares: a sentence and exit code 1 for what the user can mend, and help that fits a screen."""

from __future__ import annotations

import os
import sys
import warnings
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
    except (ValueError, OSError, SafetensorError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(1) from None
