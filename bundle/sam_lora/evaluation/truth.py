"""What a case holds, as an evaluation asks for it and measures it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sam_lora.cases import Case
from sam_lora.datalist import label_value
from sam_lora.evaluation.protocols import EvaluationRules
from sam_lora.reading import CaseError
from sam_lora.transforms import object_values


class CaseTruth:
    """The objects of a case, by label and slice.

    Args:
        case: with its label map.
        labels: value -> name, as the adapter or the datalist has them; a value without a name is called by its number.
        rules: which label, slices and sizes count.
        patient: whose case it is; the case's name where nobody says.

    Attributes:
        chosen: the measured slices, ascending: every n-th, such that the middle one of those with objects is among them.
        slices: value -> slices with an object of at least ``min_pixels``, chosen or not, ascending.
        asked: value -> name of what an automatic answer is asked for: the known labels, or what the case holds where
            none is known.
        names: value -> name of all that is asked or there.

    Raises:
        CaseError: if the case has no label map, or the rules' label is unknown.
    """

    def __init__(
        self, case: Case, labels: Mapping[int, str], rules: EvaluationRules, patient: str | None = None
    ) -> None:
        if case.label is None:
            raise CaseError(f"{case.name} has no label; an evaluation needs one.")
        self.case, self.patient, self.rules = case, case.name if patient is None else patient, rules
        self._label = case.label
        only = label_value(rules.label, labels)
        present = {int(value) for value in np.unique(case.label) if value > 0}
        wanted = {*labels, *present} if only is None else {only}
        self.names = {value: labels.get(value, str(value)) for value in sorted(wanted)}
        self.present = present & wanted
        self.asked = {value: name for value, name in self.names.items() if not labels or value in labels}
        found = [object_values(label, rules.min_pixels) for label in case.label]
        self.slices = {
            value: [k for k, values in enumerate(found) if value in values] for value in sorted(self.present)
        }
        self.slices = {value: some for value, some in self.slices.items() if some}
        holding = sorted({k for some in self.slices.values() for k in some})
        first = holding[len(holding) // 2] % rules.every if holding else 0
        self.chosen = list(range(first, len(case.label), rules.every))

    @property
    def spacing(self) -> list[float] | None:
        """Size of a voxel in mm along the axes of the label map; None where the case does not say."""
        return self.case.slice_spacing

    def measured(self, value: int) -> list[int]:
        """The chosen slices that hold an object of a label."""
        return sorted(set(self.chosen) & set(self.slices.get(value, [])))

    def mask(self, value: int, k: int) -> np.ndarray:
        """A label's truth on a slice, ``(H, W)``, bool."""
        return self._label[k] == value

    def objects(self, k: int) -> dict[int, np.ndarray]:
        """The objects of a slice that are asked for one by one: value -> ``(H, W)``, bool."""
        return {value: self.mask(value, k) for value, some in self.slices.items() if k in some}
