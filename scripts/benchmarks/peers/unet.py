"""A MONAI U-Net from scratch: one network per protocol, which is what it knows of prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import Dataset
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    DivisiblePad,
    RandAdjustContrastd,
    RandAffined,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
)
from monai.utils import set_determinism
from torch import Tensor

from benchmarks.peers.job import Job, as_image, objects_of, read_cases, train_for
from sam_lora.evaluation import Answer, CaseTruth, EvaluationRules, object_boxes
from sam_lora.files import write_aside
from sam_lora.prompts import box_of, jitter_box

RATE, BATCH = 1e-3, 8
STRIDES = (2, 2, 2, 2)
pad = DivisiblePad(16, method="end")


def build(channels: int, classes: int) -> UNet:
    """A 2D U-Net of five levels."""
    return UNet(2, channels, classes, (32, 64, 128, 256, 256), STRIDES, num_res_units=2, norm="instance")


class UNetSegmenter:
    """Two U-Nets as they are measured.

    Args:
        boxed: takes the slice and a filled box, gives the object.
        whole: takes the slice, gives background and labels.
        values: of the labels, in the order of its classes.
    """

    def __init__(self, boxed: UNet, whole: UNet, values: Sequence[int]) -> None:
        self.boxed, self.whole, self.values = boxed.eval(), whole.eval(), list(values)

    def __call__(self, truth: CaseTruth, rules: EvaluationRules) -> dict[str, Answer]:
        """Answer ``automatic`` and box protocols; it predicts no IoU."""
        ask = {"automatic": self._automatic}
        return {protocol: ask.get(protocol, self._boxed)(truth, rules, protocol) for protocol in rules.protocols}

    @torch.no_grad()
    def _boxed(self, truth: CaseTruth, rules: EvaluationRules, protocol: str) -> Answer:
        answer = Answer()
        for k in truth.chosen:
            grey = _grey(as_image(truth.case.image[k]))
            for value, mask in truth.objects(k).items():
                (box,) = object_boxes(protocol, mask, truth.case.name, k, value, rules)
                logits = self.boxed(pad(torch.stack([grey, _filled(box, grey.shape)])).as_tensor()[None])
                found = logits[0, 0, : grey.shape[0], : grey.shape[1]] > 0
                answer.add(value, k, found.numpy(), float("nan"))
        return answer

    @torch.no_grad()
    def _automatic(self, truth: CaseTruth, _: EvaluationRules, __: str) -> Answer:
        answer = Answer()
        for k in truth.chosen:
            grey = _grey(as_image(truth.case.image[k]))
            found = self.whole(pad(grey[None]).as_tensor()[None])[0].argmax(0)[: grey.shape[0], : grey.shape[1]]
            for place, value in enumerate(self.values, 1):
                answer.add(value, k, (found == place).numpy(), float("nan"))
        return answer


def load(job: Job) -> UNetSegmenter:
    """What :func:`train` left."""
    networks = build(2, 1), build(1, len(job.labels) + 1)
    for network, name in zip(networks, ("boxed", "whole"), strict=True):
        network.load_state_dict(torch.load(job.folder / f"{name}.pth", weights_only=True))
    return UNetSegmenter(*networks, list(job.labels))


def train(job: Job) -> dict[str, Any]:
    """Train both networks, each for the job's whole time: each is one protocol's answer. Returns one network's seconds."""
    cases, rate = read_cases(job), job.settings.get("learning_rate", RATE)
    objects = [{"image": _grey(as_image(image))[None], "label": mask[None]} for image, mask in
               objects_of(cases, job.min_pixels)]  # fmt: skip
    classes = np.array([0, *job.labels])
    slices = [
        {"image": _grey(as_image(case.image[k]))[None], "label": np.searchsorted(classes, case.label[k])[None]}
        for case in cases
        if case.label is not None
        for k in range(len(case.image))
    ]
    set_determinism(job.seed)
    boxed = _train(job, rate, build(2, 1), objects, "boxed", DiceCELoss(sigmoid=True, squared_pred=True))
    set_determinism(job.seed)
    whole = _train(job, rate, build(1, len(classes)), slices, "whole",
                   DiceCELoss(softmax=True, to_onehot_y=True, squared_pred=True))  # fmt: skip
    return {**boxed, "automatic": whole}


def _train(
    job: Job, rate: float, network: UNet, samples: list[dict[str, Any]], name: str, loss: DiceCELoss
) -> dict[str, Any]:
    rng = np.random.RandomState(job.seed)
    augmented = Dataset(samples, _augmentation(job.seed))
    with_box = name == "boxed"

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            chosen = [_ready(augmented[n], with_box, rng) for n in rng.choice(len(samples), BATCH)]
            height, width = (max(one.shape[axis] for one in chosen) for axis in (1, 2))
            padded = torch.stack([_to_size(one, height, width) for one in chosen])
            yield padded[:, :-1], padded[:, -1:]

    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    done = train_for(job.seconds, batches(), optimizer, lambda batch: loss(network.train()(batch[0]), batch[1]), BATCH)
    with write_aside(job.folder / f"{name}.pth") as temporary:
        torch.save(network.state_dict(), temporary)
    return done


def _augmentation(seed: int) -> Compose:
    both = ("image", "label")
    return Compose(
        [
            RandAffined(both, prob=0.8, rotate_range=0.3, scale_range=0.2, translate_range=3,
                        mode=("bilinear", "nearest"), padding_mode="zeros"),
            RandScaleIntensityd("image", 0.25, prob=0.5),
            RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
            RandGaussianNoised("image", prob=0.3, std=0.05),
            RandGaussianSmoothd("image", (0.3, 1.0), (0.3, 1.0), prob=0.2),
        ]
    ).set_random_state(seed)  # fmt: skip


def _ready(sample: dict[str, Any], with_box: bool, rng: np.random.RandomState) -> Tensor:
    """Image, filled box where there is one, and label as channels, padded to what the network takes."""
    image, label = (torch.as_tensor(sample[key]).float() for key in ("image", "label"))
    if not with_box:
        return pad(torch.cat([image, label])).as_tensor()
    mask = label[0].numpy() > 0
    # An augmentation may have moved the object out of the slice: then there is no box either.
    box = jitter_box(box_of(mask), 0.1, (mask.shape[0], mask.shape[1]), rng) if mask.any() else (0, 0, 0, 0)
    return pad(torch.cat([image, _filled(box, mask.shape)[None], label])).as_tensor()


def _to_size(sample: Tensor, height: int, width: int) -> Tensor:
    return torch.nn.functional.pad(sample, (0, width - sample.shape[2], 0, height - sample.shape[1]))


def _filled(box: Sequence[float], shape: Sequence[int]) -> Tensor:
    """A box (x0, y0, x1, y1) in pixels as ones in a slice of this shape."""
    filled = torch.zeros(shape[0], shape[1])
    x0, y0, x1, y1 = (round(side) for side in box)
    filled[y0:y1, x0:x1] = 1
    return filled


def _grey(image: Tensor) -> Tensor:
    """``(3, H, W)`` in [0, 255] -> ``(H, W)`` of mean 0 and deviation 1."""
    grey = image.mean(0)
    return (grey - grey.mean()) / grey.std().clamp(min=1)
