"""Label maps made what training wants: values dropped, merged, renamed, split into objects; small objects removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from sam_lora.cases import CaseError

LARGEST = 65535  # a larger value is a mistake, or an image taken for a mask


@dataclass(frozen=True)
class LabelRules:
    """What happens to a label map; labels are given by value or by name.

    A value that a mask does not hold is passed over, for masks differ; a name must be one of the names.

    Args:
        keep: only these stay; empty: all.
        drop: these become background.
        merge: new name -> labels that become it.
        rename: old label -> new name.
        split: a label whose connected parts become objects of their own (tumours), named name-1, name-2, ...
        min_volume: objects with fewer voxels in 3D become background, in training cases only.
        min_area: in each slice, objects with fewer pixels become background, in training cases only.
    """

    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    merge: Mapping[str, Sequence[str]] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    min_volume: int = 0
    min_area: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no list of labels, or no name."""
        for name, parts in self.merge.items():
            if isinstance(parts, str) or not isinstance(parts, Sequence):
                raise CaseError(
                    f'merge must map a new name to a list of labels, like {{"new": ["a", "b"]}}; {name!r} has {parts!r}.'
                )
        for one, name in self.rename.items():
            if not isinstance(name, str):
                raise CaseError(f'rename must map a label to one name, like {{"3": "liver"}}; {one!r} has {name!r}.')

    @property
    def removes_small(self) -> bool:
        """Whether small objects are removed from training cases."""
        return self.min_volume > 1 or self.min_area > 1

    def apply(
        self, label: np.ndarray, names: Mapping[int, str], for_training: bool
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Change one label map.

        Args:
            label: ``(I, J, K)``, integers from 0.
            names: value -> name; a value without a name is called by its number.
            for_training: whether small objects may be removed: never from what an evaluation measures.

        Returns:
            The new map and the names of its values. Values stay where they can; a merged label takes the smallest
            of its values, parts of a split one follow the highest.

        Raises:
            CaseError: if a name is asked for that there is not, two labels would have one name, or a value is too large.
        """
        names = {int(v): names.get(int(v), str(v)) for v in {*names, *np.unique(label).tolist()} if int(v) > 0}
        if max(names, default=0) > LARGEST:
            raise CaseError(f"The mask holds the value {max(names)}; labels go up to {LARGEST}.")
        table, renamed = self._tables(names)
        # A merged label may take a value that this mask does not hold.
        room = np.promote_types(label.dtype, np.min_scalar_type(max(table.values(), default=0)))
        lookup = np.zeros(max(table, default=0) + 1, room)
        lookup[list(table)] = list(table.values())
        result = lookup[label]
        left = {new: renamed[new] for new in table.values() if new}
        if self.split is not None:
            result, left = _split_parts(result, left, self.split)
        if for_training:
            result = remove_small(result, self.min_volume, self.min_area)
        return result, dict(sorted(left.items()))

    def _tables(self, names: Mapping[int, str]) -> tuple[dict[int, int], dict[int, str]]:
        """Old value -> new value (0 for what goes), and the names after merging and renaming."""
        table = {value: value for value in names}
        if self.keep:
            kept = {v for one in self.keep for v in _values(one, names)}
            table = {v: v if v in kept else 0 for v in table}
        for one in self.drop:
            table |= dict.fromkeys(_values(one, names), 0)
        renamed = dict(names)
        for name, parts in self.merge.items():
            values = sorted(v for one in parts for v in _values(one, names))
            table |= {v: values[0] for v in values if table.get(v)}
            renamed |= dict.fromkeys(values[:1], name)
        for one, name in self.rename.items():
            renamed |= dict.fromkeys(_values(one, names), name)
        for name in {*self.merge, *self.rename.values()}:
            called = sorted({new for new in table.values() if new and renamed[new] == name})
            if len(called) > 1:
                raise CaseError(
                    f"After the rules the values {' and '.join(map(str, called))} would both be called {name!r}: merge them, "
                    "all labels of that name being in its list."
                )
        return table, renamed


def _values(label: str, names: Mapping[int, str]) -> list[int]:
    """The values a label stands for. A number that one case does not hold is no mistake; a name that nobody gave is."""
    found = [v for v, name in names.items() if str(label) in (name, str(v))]
    if not found and str(label).isdecimal() and 0 < int(label) <= LARGEST:
        return [int(label)]
    if not found:
        raise CaseError(f"There is no label {label!r}; there are {', '.join(f'{v} {n}' for v, n in names.items())}.")
    return found


def _split_parts(label: np.ndarray, names: dict[int, str], one: str) -> tuple[np.ndarray, dict[int, str]]:
    result, left = label.copy(), dict(names)
    for value in _values(one, names):
        found = ndimage.find_objects((label == value).view(np.uint8))
        if not found:
            continue
        box = found[0]  # a small part of a large volume, as a rule
        parts, count = ndimage.label(label[box] == value, structure=np.ones((3,) * label.ndim))
        if max(left) + count > np.iinfo(result.dtype).max:
            result = result.astype(np.int32)
        for part in range(2, count + 1):
            number = max(left) + 1
            result[box][parts == part] = number
            left[number] = f"{names[value]}-{part}"
        left[value] = f"{names[value]}-1"
    return result, left


def remove_small(label: np.ndarray, min_volume: int, min_area: int) -> np.ndarray:
    """Turn small objects into background.

    Args:
        label: ``(I, J, K)``, integers.
        min_volume: a value with fewer voxels is removed.
        min_area: in a slice along k, a value with fewer pixels is removed from that slice.
    """
    result = label.copy()
    values, counts = np.unique(label, return_counts=True)
    for value, count in zip(values, counts, strict=True):
        if value and count < min_volume:
            result[result == value] = 0
    if min_area > 1:
        for k in range(label.shape[2]):
            values, counts = np.unique(result[..., k], return_counts=True)
            small = [v for v, n in zip(values, counts, strict=True) if v and n < min_area]
            if small:
                result[..., k][np.isin(result[..., k], small)] = 0
    return result
