"""A MONAI U-Net from scratch that sees whole volumes, for labels without a prompt.

It is made for volumes of few voxels, which it takes whole, all padded to one size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from monai.data import Dataset
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensityd,
    SpatialPad,
)
from monai.utils import set_determinism
from torch import Tensor

from benchmarks.peers.job import Job, read_cases, train_for
from sam_lora.evaluation import Answer, CaseTruth, EvaluationRules
from sam_lora.files import write_aside

RATE, BATCH = 1e-3, 2
STRIDES = (2, 2, 2)
MULTIPLE = 2 ** len(STRIDES)  # of every side of what the network takes


def build(classes: int) -> UNet:
    """A 3D U-Net of four levels: ``(B, 1, K, H, W)`` -> logits ``(B, classes, K, H, W)``; sides are multiples of 8."""
    return UNet(3, 1, classes, (24, 48, 96, 192), STRIDES, num_res_units=2, norm="instance")


class VolumeSegmenter:
    """A 3D U-Net as it is measured.

    Args:
        network: takes a volume, gives background and labels.
        values: of the labels, in the order of its classes.
        side: voxels ``(K, H, W)`` that training volumes were padded to.
    """

    def __init__(self, network: UNet, values: list[int], side: list[int]) -> None:
        self.network, self.values, self.side = network.eval(), values, side

    @torch.no_grad()
    def __call__(self, truth: CaseTruth, _: EvaluationRules) -> dict[str, Answer]:
        """Answer ``automatic``, all that it can."""
        volume = _standardized(truth.case.image)
        padded = _pad(self.side, volume.shape[1:])(volume)
        # What SpatialPad put before; MONAI's CenterSpatialCrop begins one voxel later where a side is odd.
        before = [(whole - own) // 2 for whole, own in zip(padded.shape[1:], volume.shape[1:], strict=True)]
        inside = tuple(slice(first, first + own) for first, own in zip(before, volume.shape[1:], strict=True))
        found = self.network(padded[None])[0].argmax(0)[inside]
        answer = Answer()
        for k in truth.chosen:
            for place, value in enumerate(self.values, 1):
                answer.add(value, k, (found[k] == place).numpy(), float("nan"))
        return {"automatic": answer}


def load(job: Job) -> VolumeSegmenter:
    """What :func:`train` left."""
    held = torch.load(job.folder / "volumes.pth", weights_only=True)
    network = build(len(job.labels) + 1)
    network.load_state_dict(held["network"])
    return VolumeSegmenter(network, list(job.labels), held["side"])


def train(job: Job) -> dict[str, Any]:
    """Train on whole volumes for the job's time.

    Returns:
        Seconds taken, and slices seen: of a volume as many as the training volumes have in the mean, rounded.
    """
    classes = np.array([0, *job.labels])
    samples = [
        {"image": _standardized(case.image), "label": torch.from_numpy(np.searchsorted(classes, case.label))[None]}
        for case in read_cases(job)
        if case.label is not None
    ]
    side = [max(int(sample["image"].shape[axis]) for sample in samples) for axis in (1, 2, 3)]
    set_determinism(job.seed)
    rng = np.random.RandomState(job.seed)
    altered = Dataset(samples, _augmentation(job.seed))

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            chosen = [altered[n] for n in rng.choice(len(samples), BATCH)]
            images, labels = (torch.stack([_pad(side, side)(one[key]) for one in chosen]) for key in ("image", "label"))
            yield images, labels

    network = build(len(classes))
    loss = DiceCELoss(softmax=True, to_onehot_y=True, squared_pred=True, include_background=False)
    optimizer = torch.optim.Adam(network.parameters(), lr=job.settings.get("learning_rate", RATE))
    slices = BATCH * round(sum(sample["image"].shape[1] for sample in samples) / len(samples))
    done = train_for(job.seconds, batches(), optimizer, lambda batch: loss(network(batch[0]), batch[1]), slices)
    with write_aside(job.folder / "volumes.pth") as temporary:
        torch.save({"network": network.state_dict(), "side": side}, temporary)
    return done


def _standardized(image: np.ndarray) -> Tensor:
    """``(K, H, W)`` or ``(K, H, W, 3)``, uint8 -> ``(1, K, H, W)`` of mean 0 and deviation 1."""
    grey = torch.from_numpy(image if image.ndim == 3 else image.mean(-1)).float()[None]
    return (grey - grey.mean()) / grey.std().clamp(min=1)


def _pad(side: list[int], shape: Any) -> SpatialPad:
    """Pads ``(1, K, H, W)`` equally before and after, to what training saw, or more where a volume is larger.

    Args:
        side: voxels ``(K, H, W)`` of the largest training volume along each axis.
        shape: of the volume, likewise.
    """
    return SpatialPad([-(-max(most, own) // MULTIPLE) * MULTIPLE for most, own in zip(side, shape, strict=True)])


def _augmentation(seed: int) -> Compose:
    both = ("image", "label")
    return Compose(
        [
            RandFlipd(both, prob=0.5, spatial_axis=2),
            RandAffined(both, prob=0.8, rotate_range=(0.3,) * 3, scale_range=(0.2,) * 3, translate_range=(3,) * 3,
                        mode=("bilinear", "nearest"), padding_mode="zeros"),
            RandScaleIntensityd("image", 0.25, prob=0.5),
            RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
            RandGaussianNoised("image", prob=0.3, std=0.1),
        ]
    ).set_random_state(seed)  # fmt: skip
