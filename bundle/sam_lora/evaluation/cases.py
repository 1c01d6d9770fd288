"""Cases as an evaluator takes them, one at a time, and the evaluation of one under all protocols."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from sam_lora.adapter import DEFAULT_INTENSITY
from sam_lora.cases import Case, read_case
from sam_lora.embedding import Embedder
from sam_lora.evaluation.measuring import measure_case, measure_objects
from sam_lora.evaluation.protocols import EvaluationRules, automatic_points
from sam_lora.evaluation.segmenting import Answer, segment_case
from sam_lora.evaluation.truth import CaseTruth
from sam_lora.networks import Sam
from sam_lora.reading import CaseError


@dataclass(frozen=True)
class Evaluated:
    """One case under all protocols.

    Args:
        truth: of the case.
        answers: protocol -> what was segmented.
        rows: see :func:`sam_lora.evaluation.measuring.measure_case`.
        objects: see :func:`sam_lora.evaluation.measuring.measure_objects`.
    """

    truth: CaseTruth
    answers: dict[str, Answer]
    rows: list[dict[str, Any]]
    objects: list[dict[str, Any]]

    def label_map(self, protocol: str) -> np.ndarray:
        """What was segmented as ``(K, H, W)``, integers; where objects overlap, the higher value is shown."""
        label = np.zeros(
            self.truth.case.image.shape[:3], np.uint8 if max(self.truth.names, default=0) < 256 else np.int32
        )
        for value, slices in sorted(self.answers[protocol].masks.items()):
            for k, mask in slices.items():
                label[k][mask] = value
        return label

    def describe(self) -> dict[str, Any]:
        """Name, patient and digest of the truth: what a comparison wants to be equal."""
        label, spacing = self.truth.case.label, self.truth.spacing
        said = f"{None if label is None else label.shape} {spacing}".encode()
        digest = hashlib.sha256(said + np.ascontiguousarray(label).tobytes()).hexdigest()
        return {"name": self.truth.case.name, "patient": self.truth.patient, "truth": digest}


def evaluate_case(
    embedder: Embedder,
    case: Case,
    labels: Mapping[int, str],
    rules: EvaluationRules,
    patient: str | None = None,
) -> Evaluated:
    """Segment a case under all protocols, and measure it.

    Args:
        embedder: the network and its caches.
        case: with its label map.
        labels: value -> name.
        rules: what is asked and measured.
        patient: whose case it is; the case's name where nobody says.

    Raises:
        CaseError: if the case has no label map.
        PromptError: if ``automatic`` cannot tell the labels apart.
    """
    truth = CaseTruth(case, labels, rules, patient)
    return measure_answers(truth, segment_case(embedder, truth, rules))


def measure_answers(truth: CaseTruth, answers: Mapping[str, Answer]) -> Evaluated:
    """Measure what was segmented of a case, by whatever method: protocol -> its answer."""
    rows, objects = [], []
    for protocol, answer in answers.items():
        mine = measure_objects(truth, protocol, answer)
        rows += measure_case(truth, protocol, answer, mine)
        objects += mine
    return Evaluated(truth, dict(answers), rows, objects)


class CaseDataset(Dataset):
    """Cases of a datalist, read when they are asked for: ``{"case", "patient", "image"}``.

    Args:
        data: datalist entries ``{"image", "label"}``.
        intensity: see :func:`sam_lora.cases.to_uint8`.

    Raises:
        CaseError: if there is no case, or one has no label.
    """

    def __init__(
        self, data: Sequence[Mapping[str, Any]], intensity: Mapping[str, Sequence[float]] = DEFAULT_INTENSITY
    ) -> None:
        self.data, self.intensity = list(data), intensity
        if not self.data:
            raise CaseError("There is no test case to evaluate: the datalist has none, or DIR/test holds no npz file.")
        for entry in self.data:
            if not entry.get("label"):
                raise CaseError(f"{entry['image']} has no label; training and evaluation need one.")

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        entry = self.data[index]
        case = read_case(entry, self.intensity)
        return {"case": case, "patient": str(entry.get("patient", case.name)), "image": str(entry["image"])}


def only_one(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Collate a batch of one case: the case itself."""
    (item,) = items
    return item


class CaseEvaluation:
    """``iteration_update`` of a ``SupervisedEvaluator``: evaluates the case of a batch under all protocols.

    Args:
        network: base or adapted.
        labels: value -> name.
        rules: what is asked and measured.

    Raises:
        PromptError: if ``automatic`` cannot tell the labels apart.
    """

    def __init__(self, network: Sam, labels: Mapping[int, str], rules: EvaluationRules) -> None:
        self.network, self.labels, self.rules = network, dict(labels), rules
        self._embedder: Embedder | None = None
        if "automatic" in rules.protocols and rules.label is None:
            automatic_points(network, self.labels)  # refused before any work

    def __call__(self, engine: Any, batch: Mapping[str, Any]) -> Evaluated:
        """Evaluate one case."""
        if self._embedder is None or engine.state.iteration == 1:  # a later run may find other weights
            self._embedder = Embedder(self.network)
        with torch.autocast(self._embedder.device.type, enabled=engine.amp):
            return evaluate_case(self._embedder, batch["case"], self.labels, self.rules, batch["patient"])
