"""Training steps and epochs, ours beside peft on the reference networks, and the presets beside each other."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.losses import DiceCELoss
from monai.transforms import Compose
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.sides import PRESETS, Side, ours, peft_side
from benchmarks.turns import in_turns, serve
from sam_lora.build import build_sam_lora
from sam_lora.datasets import SliceDataset, collate_slices
from sam_lora.files import write_json
from sam_lora.interop import write_base
from sam_lora.losses import PerObjectLoss
from sam_lora.networks import VARIANTS, build_sam
from sam_lora.transforms import RandPromptsd, SplitObjectsd
from sam_lora.weights import find_weights, load_tensors

REFERENCE = {"vit_b": "peft on segment-anything", "vit_t": "peft on LiteMedSAM"}
SAME = 1e-4  # relative difference of losses, gradients and updated weights
Sample = dict[str, Any]


def train(rounds: int = 3, cases: int = 10, only: str | None = None, json: str | None = None) -> None:
    """Time training: steps of vit_b and vit_t, an epoch of vit_t, ours and peft in turns, then the presets in turns.

    LoRA of rank 4 on q and v of all layers, one image, boxes, AdamW. The sides start from the same tensors, and their
    losses, gradients and updated weights are compared after the first step. vit_b has random weights: any are as fast.

    Args:
        rounds: steps of each side, after one that is not counted; the median is shown.
        cases: of the hippocampus, in $SAM_LORA_DATA, that make an epoch.
        only: vit_b, vit_t, epoch or presets; None does them all.
        json: also write the figures there.
    """
    if only not in (None, *VARIANTS, "epoch", "presets"):
        raise ValueError(f"only must be one of {', '.join(VARIANTS)}, epoch, presets, got {only!r}.")
    figures: dict[str, Any] = {"threads": torch.get_num_threads()}
    print(f"{torch.get_num_threads()} threads; ratios of seconds, in brackets of processor seconds")
    with tempfile.TemporaryDirectory() as name:
        for variant in VARIANTS:
            if only in (variant, None) and variant in REFERENCE:
                figures[f"{variant} step"] = _compare(Path(name), variant, 0, rounds)
        if only in ("epoch", None):
            figures["vit_t epoch"] = _compare(Path(name), "vit_t", cases, cases)
        if only in ("presets", None):
            figures["presets"] = _presets(Path(name), cases)
    if json:
        write_json(Path(json), figures)


def _compare(folder: Path, variant: str, cases: int, turns: int) -> dict[str, Any]:
    """Ours, ours with checkpointing (steps only) and peft; prints and returns the figures."""
    _write_start(folder, variant)
    names = ["ours", *([] if cases else ["ours_checkpointing"]), REFERENCE[variant]]
    sides = [["train_worker", side, variant, str(folder), str(cases)] for side in names]
    found = dict(zip(names, in_turns(sides, turns, first="numbers"), strict=True))
    difference = max(_difference(folder, name, names[-1]) for name in names[:-1])
    if not difference < SAME:
        raise ValueError(f"ours and {names[-1]} differ by {difference:.1e} after one step: they do not do the same.")
    kind = "sum_of_" if cases else ""
    title = f"{variant}, epoch of {cases} cases" if cases else f"{variant}, {VARIANTS[variant].image_size} px, one step"
    print(f"{title}: losses, gradients and updated weights agree to {difference:.0e}")
    for name, row in found.items():
        print(f"  {name}: {_against(row, found[names[-1]], kind)}", flush=True)
    return {"difference": difference, **found}


def _against(row: dict[str, float], other: dict[str, float], kind: str) -> str:
    seconds, processor = f"{kind}seconds", f"{kind}processor_seconds"
    return (
        f"{row[seconds]:.2f} s ({row[processor]:.2f} s), {other[seconds] / row[seconds]:.2f}x "
        f"({other[processor] / row[processor]:.2f}x) as fast; peak {row['peak_gb']:.2f} GB, "
        f"{row['peak_gb'] / other['peak_gb']:.2f}x"
    )


def _presets(folder: Path, cases: int) -> dict[str, Any]:
    """An epoch of each preset, caches filled, against `accurate`."""
    _write_start(folder, "vit_t")
    sides = [["train_worker", preset, "vit_t", str(folder), str(cases)] for preset in PRESETS]
    found = dict(zip(PRESETS, in_turns(sides, cases, first="fill"), strict=True))
    print(f"vit_t, epoch of {cases} cases, caches filled, against accurate")
    for name, row in found.items():
        print(f"  {name}: {_against(row, found['accurate'], 'sum_of_')}", flush=True)
    return found


def _write_start(folder: Path, variant: str) -> None:
    """Base weights and LoRA tensors that every side starts from; B is not zero, or A would have no gradient."""
    torch.manual_seed(0)
    base = folder / f"{variant}.safetensors"
    if variant == "vit_t":
        write_base(base, load_tensors(find_weights(variant)), variant)
    else:
        network = build_sam(variant)
        for parameter in network.parameters():
            if not parameter.any():
                parameter.data.normal_(0, 0.02)
        write_base(base, network.state_dict(), variant)
    start = build_sam_lora(variant, weights=str(base)).adapter_tensors()
    save_file(
        {n: torch.randn_like(t) * 0.02 if "lora_b" in n else t for n, t in start.items()}, folder / f"{variant}.lora"
    )


def _difference(folder: Path, side: str, other: str) -> float:
    """The largest relative difference, as a norm: of the loss, of each gradient, and of all updated weights together.

    Together, because Adam's first step is nearly the sign of the gradient: where that is zero but for rounding, one
    weight may go the other way.
    """
    mine, theirs = load_file(folder / f"{side}.numbers"), load_file(folder / f"{other}.numbers")
    if mine.keys() != theirs.keys():
        raise ValueError(f"{side} and {other} train other tensors: {sorted(mine.keys() ^ theirs.keys())[:3]}.")
    weights = [name for name in mine if ".lora_" in name and not name.endswith(".grad")]
    pairs = [(mine[name], theirs[name]) for name in mine if name not in weights]
    together = [torch.cat([tensors[name].flatten() for name in weights]) for tensors in (mine, theirs)]
    pairs.append((together[0], together[1]))
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def train_worker(side: str, variant: str, folder: str, cases: int) -> None:
    """Serve one side of a comparison.

    Args:
        side: ours, a preset, or the reference.
        variant: row of the table of variants.
        folder: of base weights and LoRA tensors, and where the numbers of the first step go.
        cases: of an epoch, one a turn; 0 for the same step at each turn.
    """
    make = peft_side if side == REFERENCE[variant] else ours
    one: Side = make(side, variant, Path(folder))
    turns = hippocampus(int(cases)) if int(cases) else [[_one_box(VARIANTS[variant].image_size)]]
    optimizer = torch.optim.AdamW(one.parameters, lr=1e-4)
    loss_function = PerObjectLoss(DiceCELoss(sigmoid=True, squared_pred=True))
    order = iter(turns * (1 if int(cases) else 10_000))

    def step(sample: Sample) -> Tensor:
        logits = one.logits(sample["image"], sample["points"], sample["point_labels"])[:, :, None]
        loss = loss_function({"logits": logits, "iou": logits.new_zeros(logits.shape[:3])}, sample["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    def numbers() -> None:
        loss = step(turns[0][0])
        save_file({"loss": loss, **one.numbers()}, Path(folder) / f"{side}.numbers")

    def fill() -> None:
        for sample in (s for turn in turns for s in turn):
            one.logits(sample["image"], sample["points"], sample["point_labels"])

    actions: dict[str, Callable[[], Any]] = {"numbers": numbers, "fill": fill}
    serve(actions | {"turn": lambda: [step(sample) for sample in next(order)]})


def _one_box(size: int) -> Sample:
    """A random image with a rectangle."""
    generator = torch.Generator().manual_seed(0)
    label = torch.zeros(1, 1, size, size)
    label[..., size // 4 : size // 2, size // 3 : 2 * size // 3] = 1
    image = torch.rand(1, 3, size, size, generator=generator) * 200 + 50 * label
    box = [[size / 3, size / 4], [2 * size / 3, size / 2]]
    return {"image": image, "label": label, "points": torch.tensor([[box]]), "point_labels": torch.tensor([[[2, 3]]])}


def hippocampus(cases: int) -> list[list[Sample]]:
    """The first cases by name: per case its slices that hold an object, as batches of one with jittered boxes."""
    folder = Path(os.environ.get("SAM_LORA_DATA", "")) / "mr-hippocampus-msd"
    images = sorted((folder / "images").glob("*.nii.gz"))[:cases]
    if len(images) < cases:
        raise ValueError(f"{cases} cases of the hippocampus must lie in $SAM_LORA_DATA, {folder} has {len(images)}.")
    transform = Compose([SplitObjectsd(min_pixels=10), RandPromptsd(mode="box", jitter=0.1)])
    data = [{"image": str(image), "label": str(folder / "labels" / image.name)} for image in images]
    dataset = SliceDataset(data, transform, min_pixels=10, prompt_mode="box")
    found: list[list[Sample]] = [[] for _ in images]
    for n, (case, _) in enumerate(dataset.places):
        found[case].append(collate_slices([dataset[n]]))
    return found
