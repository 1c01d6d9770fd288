"""The demonstration: zero-shot, LoRA only, LoRA with the decoder trained, and a page that compares them."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from monai.bundle import run as run_bundle

from sam_lora.cases import Case, read_case
from sam_lora.demo.brain import write_brain_cases
from sam_lora.demo.report import slice_panels, write_report
from sam_lora.files import writable_folder

BUNDLE = Path(__file__).resolve().parents[2]
# One pass over the training slices: what two cores do in about two minutes each. Every third test slice is measured.
COMMON = {"min_pixels": 30, "prompt_mode": "box", "box_jitter": 0.1, "seed": 0}
SETTINGS: dict[str, dict[str, Any]] = {
    "LoRA only": {"decoder": "frozen", "learning_rate": 3e-3, "accumulation_steps": 1},
    "LoRA and decoder": {"decoder": "full", "learning_rate": 3e-4, "accumulation_steps": 2},
}


def run_demo(output: Path) -> list[dict[str, Any]]:
    """Run it all in ``output`` and write ``report.html`` there.

    Returns:
        One result per column of the page's table, see :func:`sam_lora.demo.report.write_report`.
    """
    writable_folder(output, "output")
    data = write_brain_cases(output / "data")
    runs = output / "runs"
    zero_shot, before = _evaluate(data, runs, None)
    results = [{"name": "zero-shot", "dice": zero_shot, "bytes": 0, "seconds": 0.0}]
    curves, after = {}, before
    for name, settings in SETTINGS.items():
        started = time.perf_counter()
        folder = _train(data, runs, name, settings)
        seconds = time.perf_counter() - started
        adapter = folder / "adapter_best.safetensors"
        dice, after = _evaluate(data, runs, adapter)
        results.append({"name": name, "dice": dice, "bytes": adapter.stat().st_size, "seconds": seconds})
        curves[name] = folder / "train_loss.png"
    case = _test_case(data)
    truth = case.label if case.label is not None else np.zeros_like(after)
    write_report(output / "report.html", results, curves, slice_panels(case.image, truth, before, after))
    return results


def _test_case(data: Path) -> Case:
    path = str(data / "test" / "icbm2009c.npz")
    return read_case({"image": path, "label": path})


def _train(data: Path, runs: Path, name: str, settings: dict[str, Any]) -> Path:
    return _run(["train.json"], data, runs, name.replace(" ", "_"), epochs=1, **settings)


def _evaluate(data: Path, runs: Path, adapter: Path | None) -> tuple[dict[str, float], np.ndarray]:
    """Mean Dice per object, by structure and over all, and the predicted label map ``(K, H, W)``."""
    given = {} if adapter is None else {"adapter": str(adapter)}
    folder = _run(["train.json", "evaluate.json"], data, runs, "evaluation", every=3, save_masks=True, **given)
    found = json.loads((folder / "metrics.json").read_text())["protocols"]["jittered_box"]
    dice = {label: part["mean_object_dice"]["value"] for label, part in found["labels"].items()}
    mask = np.asanyarray(nibabel.load(folder / "masks" / "jittered_box" / "icbm2009c.nii.gz").dataobj)
    return {**dice, "mean": found["all"]["mean_object_dice"]["value"]}, mask.T


def _run(configs: list[str], data: Path, runs: Path, task: str, **overrides: Any) -> Path:
    """Run the bundle in this process; the folder that its run made."""
    before = set(runs.glob("*"))
    with contextlib.redirect_stdout(sys.stderr):  # MONAI's summary is progress, not a result
        run_bundle(
            config_file=[str(BUNDLE / "configs" / name) for name in configs],
            meta_file=str(BUNDLE / "configs" / "metadata.json"),
            logging_file=str(BUNDLE / "configs" / "logging.conf"),
            bundle_root=str(BUNDLE),
            dataset_dir=str(data),
            output_dir=str(runs),
            ckpt_dir=str(runs / "models"),
            task_name=task,
            **COMMON,
            **overrides,
        )
    (made,) = (folder for folder in set(runs.glob(f"{task}-*")) - before)
    return made
