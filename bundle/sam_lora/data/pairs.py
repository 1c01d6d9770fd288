"""Which mask belongs to which image."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sam_lora.cases import CaseError, stem
from sam_lora.dicom_seg import is_seg

VOLUMES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
DICOM = (".dcm", ".dicom", ".ima")


@dataclass(frozen=True)
class Pair:
    """An image, its masks (one, or one per object), and the name of the case."""

    name: str
    image: Path
    labels: tuple[Path, ...]


def find_files(where: str, endings: tuple[str, ...]) -> list[Path]:
    """Images in a folder, matching a pattern, or one by name, sorted.

    A folder gives its files and the folders in it that hold DICOM series; one that holds only DICOM files is a series
    itself; a DICOM file gives itself.

    Args:
        where: folder, glob pattern or file.
        endings: of the files that count, in small letters.

    Raises:
        CaseError: if nothing is found.
    """
    path = Path(where).expanduser()
    if path.is_file():
        found = [path]
    elif path.is_dir():
        found = _in_folder(path, endings)
    else:
        base = Path(path.anchor) if path.is_absolute() else Path()
        found = sorted(base.glob(str(path.relative_to(path.anchor)))) if any(c in where for c in "*?[") else []
    if not found:
        raise CaseError(
            f"Nothing is found in {where}: give a folder, a pattern or a file ending in {', '.join(endings)}."
        )
    return found


def _in_folder(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    inside = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    files = [p for p in inside if p.is_file()]
    found = [p for p in files if p.name.lower().endswith(endings) and not is_dicom(p)]
    if not found and files and is_dicom(files[0]):
        return files if is_seg(files[0]) else [folder]
    return sorted([*found, *(p for p in inside if p.is_dir() and holds_dicom(p))])


def holds_dicom(folder: Path) -> bool:
    """Whether a folder's first file is DICOM, by its ending or by the "DICM" at byte 128."""
    first = next((p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")), None)
    return first is not None and is_dicom(first)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its ending or by the "DICM" at byte 128."""
    if path.name.lower().endswith(DICOM):
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def pair_up(images: list[Path], labels: list[Path], several: bool = False) -> list[Pair]:
    """Find each image's mask: two single files are a pair; else the same stem, else one stem the other's unique prefix.

    Args:
        images: files, or folders of DICOM series.
        labels: likewise.
        several: masks are one per object: every mask whose stem begins with the image's.

    Raises:
        CaseError: naming the image that has no mask, or could have several, and the masks; or the mask that two have.
    """
    if len(images) == len(labels) == 1 and not several:
        return [Pair(stem(images[0]), images[0], (labels[0],))]
    twice = [name for name, n in Counter(map(stem, images)).items() if n > 1]
    if twice:
        raise CaseError(f"Two images are called {twice[0]}; give them names of their own.")
    pairs = [Pair(stem(image), image, _masks_of(image, images, labels, several)) for image in images]
    owners: dict[Path, Path] = {}
    for pair in pairs:
        for mask in pair.labels:
            if owners.setdefault(mask, pair.image) != pair.image:
                raise CaseError(f"{mask} would be the mask of {owners[mask].name} and of {pair.image.name}; name each.")
    return pairs


def _masks_of(image: Path, images: list[Path], labels: list[Path], several: bool) -> tuple[Path, ...]:
    own = stem(image)
    same = [p for p in labels if stem(p) == own]
    if len(same) == 1 and not several:
        return (same[0],)
    near = [p for p in labels if _one_begins_the_other(stem(p), own)]
    # "case1" also begins "case10": what is called as another image, or fits a longer name better, belongs to that one.
    others = [stem(p) for p in images if stem(p) != own]
    longer = [other for other in others if len(other) > len(own)]
    near = [p for p in near if stem(p) not in others and not any(_one_begins_the_other(stem(p), o) for o in longer)]
    if not near:
        raise CaseError(f"{image} has no mask: none of {len(labels)} begins with {own}, or is the beginning of it.")
    if len(near) > 1 and not several:
        raise CaseError(f"{image} could have several masks: {', '.join(p.name for p in near[:4])}; name one {own}.")
    return tuple(near)


def _one_begins_the_other(a: str, b: str) -> bool:
    return a.startswith(b) or b.startswith(a)
