"""Files that are whole or not there: written beside their place and renamed into it."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; flush it to disk and rename it to ``path`` when the block ends well.

    A reader sees the old file or the new one, never a part; after an error nothing is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def clear_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes were writing into a folder; only for folders that nobody else writes to now.

    Args:
        folder: may be missing.
        name: only what was to become this file.
    """
    for left in folder.glob(f".{'*' if name is None else glob.escape(name)}.*.part"):
        left.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, aside and renamed."""
    with write_aside(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """What :func:`write_json` wrote of a dictionary; ValueError if that is not what the file holds."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def writable_folder(path: Path, name: str) -> Path:
    """Make a folder, and its parents.

    Args:
        path: the folder.
        name: what the caller calls it, for the sentence.

    Raises:
        ValueError: if it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"{name} must be a folder that can be written to, {path} is not: {error.strerror}.") from error
    return path
