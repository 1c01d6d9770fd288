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

    Below these, files keep the folders that they have beside the datalist, those from elsewhere their own folder's name.
    An entry's ``copied_from`` says which of its files are such copies, and of what: when its section changes, these
    move. All others stay where they are. Nothing is done before everything is known to be possible.

    Args:
        content: a datalist whose relative paths start in ``start``.
        start: folder of the datalist.
        by_link: symbolic links instead of copies.

    Returns:
        The datalist with the new paths.

    Raises:
        CaseError: if a file is missing, another one is there already, or two would become one.
    """
    moves: dict[Path, tuple[Path, bool]] = {}
    result = dict(content)
    for section in SECTIONS:
        result[section] = [_planned(e, start, FOLDERS[section], moves) for e in content.get(section, [])]
    for target, (source, is_ours) in moves.items():
        _check(source, target, is_ours, by_link)
    for target, (source, is_ours) in moves.items():
        _put(source, target, is_ours, by_link)
    return result


def _planned(
    entry: Mapping[str, Any], start: Path, folder: str, moves: dict[Path, tuple[Path, bool]]
) -> dict[str, Any]:
    """The entry as it will be; what has to be done for that is added to ``moves``: target -> source, whether ours."""
    result, origins = dict(entry), dict(entry.get("copied_from", {}))
    for key in ("image", "label"):
        if key in entry:
            source, target = start / str(entry[key]), start / folder / _inside(str(entry[key]))
            if source != target:
                other, _ = moves.setdefault(target, (source, key in origins))
                if other != source:
                    raise CaseError(f"{other} and {source} would both become {target}: give them names of their own.")
                origins.setdefault(key, str(entry[key]))
            result[key] = target.relative_to(start).as_posix()
    return result | ({"copied_from": origins} if origins else {})


def _inside(name: str) -> Path:
    """Where a file goes in its section's folder."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        path = Path(*path.absolute().parts[-2:])
    return Path(*path.parts[1:]) if len(path.parts) > 1 and path.parts[0] in FOLDERS.values() else path


def _check(source: Path, target: Path, is_ours: bool, by_link: bool) -> None:
    if not source.exists() and not target.exists():
        raise CaseError(f"There is no {source}.")
    if source.exists() and target.exists() and not _is_same(source, target):
        raise CaseError(f"{target} is there already and is another file than {source}: delete one.")
    if source.is_dir() and not target.exists() and not is_ours and not by_link:
        raise CaseError(f"{source} is a folder of DICOM files: give --link, or prepare it with `data.py ct_mr`.")


def _put(source: Path, target: Path, is_ours: bool, by_link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(target.parent, target.name)
    if is_ours and source.exists():
        if not target.exists():
            source.replace(target)
        elif source.is_symlink() or not target.samefile(source):
            source.unlink()
    elif not target.exists():
        _bring(source, target, by_link)


def _bring(source: Path, target: Path, by_link: bool) -> None:
    if by_link:
        target.symlink_to(os.path.relpath(source.resolve(), target.parent.resolve()))
    else:
        with write_aside(target) as temporary:
            shutil.copyfile(source, temporary)


def _is_same(source: Path, target: Path) -> bool:
    if target.samefile(source):
        return True
    return source.is_file() and target.is_file() and filecmp.cmp(source, target, shallow=False)
