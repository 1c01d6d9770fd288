"""A case whose objects are told apart by brightness, and a network that sees brightness: what an evaluation gets right."""

from types import SimpleNamespace

import numpy as np
import torch
from torch.nn import functional as F

from sam_lora.cases import Case
from sam_lora.evaluation import CaseTruth, EvaluationRules
from tests.sam_lora.test_propagation import BrightSam

LABELS = {1: "bright", 2: "dim"}
VALUES = {1: 220, 2: 140}


def toy_case(name="toy", spacing=(1.0, 1.0, 2.0), slices=5):
    """Slices of 64 x 64, which a frame of 64 shows as they are: label 1 on slices 0 to 3, label 2 from 2 on."""
    label = np.zeros((slices, 64, 64), np.uint8)
    label[:4, 8:24, 10:30] = 1
    label[2:, 40:52, 34:50] = 2
    image = np.zeros_like(label)
    for value, brightness in VALUES.items():
        image[label == value] = brightness
    image[:, 0, 0] = range(slices)  # no slice is another one
    return case_of(label, image, spacing, name)


def case_of(label, image=None, spacing=None, name="toy"):
    image = np.zeros_like(label, np.uint8) if image is None else image
    return Case(name, image, label, spacing, np.eye(4), "")


def truth_of(array, spacing=None, labels=None, **rules):
    return CaseTruth(case_of(array, None, spacing), labels or {}, EvaluationRules(**rules))


class TokenSam(BrightSam):
    """Answers to a label's token with what is as bright as that label; other labels' tokens are other labels."""

    def __init__(self, labels=LABELS):
        super().__init__()
        self.spec = SimpleNamespace(tokens=tuple(sorted(labels)), labels=labels)
        self.tokens, self.neighbours = self.spec.tokens, False

    def decode(self, embedding, points, point_labels, size, mask=None, multimask=False):
        if not (point_labels >= 4).any():
            return super().decode(embedding, points, point_labels, size, mask, multimask)
        grey = F.pixel_shuffle(embedding[:, :16], 4)[0, 0]
        wanted = [VALUES[sorted(self.spec.labels)[(int(row.max()) - 5) // 2]] / 255 for row in point_labels[0]]
        logits = [torch.where((grey - one).abs() < 0.1, 5.0, -5.0) for one in wanted]
        return torch.stack(logits)[None, :, None], torch.full((1, len(logits), 1), self.iou)
