"""Cases moved into the folders of their sections, by copy or link."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam_lora.cases import CaseError
from sam_lora.data.split import SECTIONS
from sam_lora.files import write_aside

FOLDERS = {"training": "train", "validation": "validation", "test": "test"}


def transfer(content: Mapping[str, Any], start: Path, by_link: bool) -> dict[str, Any]:
    """Copy or link every case into ``train``, ``validation`` or ``test`` beside the datalist.

    Args:
        content: a datalist whose relative paths start in ``start``.
        start: folder of the datalist.
        by_link: symbolic links instead of copies.

    Returns:
        The datalist with the new paths.

    Raises:
        CaseError: if a file is missing, or another one is there already.
    """
    result = dict(content)
    for section in SECTIONS:
        result[section] = [
            {
                **e,
                **{
                    key: _one(start / e[key], start, FOLDERS[section], by_link)
                    for key in ("image", "label")
                    if key in e
                },
            }
            for e in content.get(section, [])
        ]
    return result


def _one(source: Path, start: Path, folder: str, by_link: bool) -> str:
    target = start / folder / source.name
    target.parent.mkdir(exist_ok=True)
    if not source.exists():
        raise CaseError(f"There is no {source}.")
    if target.exists() and not target.samefile(source) and target.stat().st_size != source.stat().st_size:
        raise CaseError(f"{target} is there already and is another file than {source}.")
    if not target.exists():
        if by_link:
            target.symlink_to(source.resolve())
        else:
            with write_aside(target) as temporary:
                shutil.copyfile(source, temporary)
    return target.relative_to(start).as_posix()
