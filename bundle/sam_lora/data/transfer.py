"""Cases put into the folders of their sections, by copy or link."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam_lora.cases import CaseError
from sam_lora.data.split import SECTIONS
from sam_lora.datalist import SECTIONS as FOLDERS
from sam_lora.files import clear_leftovers, write_aside


def transfer(content: Mapping[str, Any], start: Path, by_link: bool) -> dict[str, Any]:
    """Copy or link every case into ``train``, ``validation`` or ``test`` beside the datalist.

    Below these, files keep the folders that they have beside the datalist. A copy that lies in another section's folder,
    as a fold before had it, moves.

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
            {**e, **{k: _one(start, str(e[k]), FOLDERS[section], by_link) for k in ("image", "label") if k in e}}
            for e in content.get(section, [])
        ]
    return result


def _one(start: Path, name: str, folder: str, by_link: bool) -> str:
    source = start / name
    inside = Path(name) if not Path(name).is_absolute() and ".." not in Path(name).parts else Path(source.name)
    is_ours = inside.parts[0] in FOLDERS.values()
    target = start / folder / (inside.relative_to(inside.parts[0]) if is_ours else inside)
    target.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(target.parent, target.name)
    if target.exists() and source.exists() and not target.samefile(source):
        if not _is_same(source, target):
            raise CaseError(f"{target} is there already and is another file than {source}: delete one.")
        if is_ours:
            source.unlink()
    elif is_ours and source.exists():
        source.replace(target)
    elif not target.exists():
        _bring(source, target, by_link)
    return target.relative_to(start).as_posix()


def _bring(source: Path, target: Path, by_link: bool) -> None:
    if not source.exists():
        raise CaseError(f"There is no {source}.")
    if by_link:
        target.symlink_to(os.path.relpath(source.resolve(), target.parent.resolve()))
    elif source.is_dir():
        raise CaseError(f"{source} is a folder of DICOM files: give --link, or prepare it with `data.py ct_mr`.")
    else:
        with write_aside(target) as temporary:
            shutil.copyfile(source, temporary)


def _is_same(source: Path, target: Path) -> bool:
    return source.is_file() and target.is_file() and filecmp.cmp(source, target, shallow=False)
