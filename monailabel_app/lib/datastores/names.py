"""What images, tags and files may be called: nothing that is a path, nothing that could be run."""

from __future__ import annotations

import re
from pathlib import Path

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".jpg", ".tif")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_TAG = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")


class DatastoreError(ValueError):
    """The studies folder cannot do what is asked; the sentence says why."""


def check_id(name: str) -> str:
    """An image's id, if it can be one; DatastoreError if it cannot."""
    if not isinstance(name, str) or not _ID.fullmatch(name) or ".." in name:
        raise DatastoreError(
            f"An image id has 1 to 128 letters, digits, '_', '-' and single '.', and begins with a letter or digit, got {name!r}."
        )
    return name


def check_tag(name: str) -> str:
    """A label's tag, if it can be one; DatastoreError if it cannot."""
    if not isinstance(name, str) or not _TAG.fullmatch(name):
        raise DatastoreError(f"A tag has 1 to 32 letters, digits and '_', and begins with a letter, got {name!r}.")
    return name


def ending_of(name: str) -> str:
    """The ending of an image's or label's file name; DatastoreError lists the endings where it is none of them."""
    for ending in ENDINGS:
        if name.lower().endswith(ending):
            return ending
    raise DatastoreError(f"A file must end in {', '.join(ENDINGS)}, got {Path(name).name!r}.")


def is_id(name: str) -> bool:
    """Whether an image may be called so."""
    return bool(_ID.fullmatch(name)) and ".." not in name
