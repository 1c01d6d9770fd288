"""What an evaluation leaves behind: measurements per case and label, means with intervals, overlays, masks."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from tqdm import tqdm

from sam_lora.cases import Case, write_mask
from sam_lora.datasets import SliceDataset
from sam_lora.files import write_aside, write_json
from sam_lora.metrics import bootstrap_interval, dice, nan_mean, surface_dice
from sam_lora.plots import overlay, save_panels
from sam_lora.runs import write_provenance

logger = logging.getLogger(__name__)

FIELDS = ("case", "patient", "label", "slices", "dice", "surface_dice", "tolerance", "unit", "mean_slice_dice")


class EvaluationReport:
    """Collects the evaluator's slices into volumes and writes ``metrics.csv``, ``metrics.json`` and overlays.

    Dice and Surface Dice are those of a label's volume in a case; ``mean_slice_dice`` averages over its slices.
    Slices whose object is smaller than the dataset's ``min_pixels`` are in neither mask.

    Args:
        folder: where the files go.
        dataset: the evaluated slices, in order.
        prompt_mode: recorded; a box from the label is called an oracle.
        box_jitter: recorded.
        tolerance: of Surface Dice, in mm where the case has a spacing, else in pixels; ``unit`` says which.
        save_masks: also write each case's predicted label map on the case's own grid, PNG for a picture, else NIfTI.
        adapter: recorded; empty for the base as it is.
    """

    def __init__(
        self,
        folder: str,
        dataset: SliceDataset,
        prompt_mode: str,
        box_jitter: float,
        tolerance: float = 1.0,
        save_masks: bool = False,
        adapter: str | None = None,
    ) -> None:
        self.folder, self.dataset, self.tolerance, self.save_masks = Path(folder), dataset, tolerance, save_masks
        self.settings = {
            "prompt_mode": prompt_mode,
            "box_jitter": box_jitter,
            "prompts_from": "ground truth (oracle)" if prompt_mode not in ("no", "full_box") else "nothing",
            "adapter": adapter or None,
            "min_pixels": dataset.min_pixels,
            "every": dataset.every,
            "without_object": [str(dataset.data[n].get("name", dataset.data[n]["image"])) for n in dataset.empty],
        }
        self.rows: list[dict[str, Any]] = []
        self._current: int | None = None
        self._slices: dict[int, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
        self._bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        """Follow the evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        write_provenance(self.folder)
        self.rows, self._current = [], None
        self._bar = tqdm(total=engine.state.epoch_length, desc="evaluating", unit="slice")

    def _collect(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            case, k = int(item["case"]), int(item["slice"])
            if case != self._current:
                self._finish_case()
                self._current = case
            masks = (output["pred"] > 0).cpu().numpy()
            truths = (output["label"] > 0).cpu().numpy()
            for value, mask, truth in zip(item["values"].tolist(), masks, truths, strict=True):
                self._slices.setdefault(value, {})[k] = (mask, truth)
        if self._bar is not None:
            self._bar.update()

    def _finish_case(self) -> None:
        if self._current is None:
            return
        case, entry = self.dataset.case(self._current), self.dataset.data[self._current]
        for value, slices in sorted(self._slices.items()):
            self.rows.append({**self._measure(case, slices), "label": self.dataset.labels.get(value, str(value)),
                              "case": case.name, "patient": str(entry.get("patient", case.name))})  # fmt: skip
        prediction = np.zeros(case.image.shape[:3], np.uint8 if max(self._slices) < 256 else np.int32)
        truth = np.zeros_like(prediction)
        for value, slices in self._slices.items():
            for k, (mask, expected) in slices.items():
                prediction[k][mask], truth[k][expected] = value, value
        self._draw(case, prediction, truth)
        if self.save_masks:
            write_mask(self.folder / "masks" / case.name, prediction, case.affine, Path(entry["image"]))
        self._slices = {}

    def _measure(self, case: Case, slices: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
        first, last = min(slices), max(slices)
        empty = np.zeros(case.image.shape[1:3], bool)
        pred, truth = (np.stack([slices.get(k, (empty, empty))[n] for k in range(first, last + 1)]) for n in (0, 1))
        spacing = None if case.spacing is None else list(case.spacing[::-1])  # axes here are k, j, i
        if len(case.image) == 1:  # an image, not a volume of one slice: its surface is an outline
            pred, truth, spacing = pred[0], truth[0], None if spacing is None else spacing[1:]
        return {
            "slices": len(slices),
            "dice": dice(pred, truth),
            # With slices left out the volume has gaps, and a gap is no surface.
            "surface_dice": float("nan")
            if self.dataset.every > 1 and pred.ndim == 3
            else surface_dice(pred, truth, self.tolerance, spacing),
            "tolerance": self.tolerance,
            "unit": "pixels" if spacing is None else "mm",
            "mean_slice_dice": nan_mean([dice(p, t) for p, t in slices.values()]),
        }

    def _draw(self, case: Case, prediction: np.ndarray, truth: np.ndarray) -> None:
        k = int((truth > 0).sum((1, 2)).argmax())
        panels = {
            f"{case.name}, slice {k}": case.image[k],
            "label": overlay(case.image[k], truth[k]),
            "prediction": overlay(case.image[k], prediction[k]),
        }
        (self.folder / "overlays").mkdir(exist_ok=True)
        save_panels(panels, self.folder / "overlays" / f"{case.name}.png")

    def _finish(self, _: Engine) -> None:
        self._finish_case()
        if self._bar is not None:
            self._bar.close()
        with write_aside(self.folder / "metrics.csv") as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(self.rows)
        summary = {**self.settings, **summarize(self.rows), "rows": self.rows}
        write_json(self.folder / "metrics.json", _jsonable(summary))
        logger.info("%s\n%s", self.folder, describe(summary))


STATISTICS: dict[str, Callable[[Sequence[Mapping[str, Any]]], float]] = {
    "mean_dice": lambda rows: nan_mean([r["dice"] for r in rows]),
    "mean_surface_dice": lambda rows: nan_mean([r["surface_dice"] for r in rows]),
    "mean_object_dice": lambda rows: _object_mean(rows),
}


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over all rows and per label, with 95 % bootstrap intervals over patients.

    ``mean_object_dice`` weighs every object of every slice alike; ``mean_dice`` every label of every case.
    """

    def of(some: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            name: {"value": value(some), "interval": bootstrap_interval(some, value, "patient")}
            for name, value in STATISTICS.items()
        }

    labels = sorted({row["label"] for row in rows})
    return {**of(rows), "labels": {label: of([r for r in rows if r["label"] == label]) for label in labels}}


def _object_mean(rows: Sequence[Mapping[str, Any]]) -> float:
    slices = sum(row["slices"] for row in rows)
    return sum(row["mean_slice_dice"] * row["slices"] for row in rows) / slices if slices else float("nan")


def describe(summary: Mapping[str, Any]) -> str:
    """The summary as a table of text."""
    lines = [f"prompts: {summary['prompt_mode']} from {summary['prompts_from']}, box jitter {summary['box_jitter']}"]
    if summary["without_object"]:
        lines.append(f"not measured, no object in them: {', '.join(summary['without_object'])}")
    for name, part in [("all", summary), *summary["labels"].items()]:
        values = (f"{key[5:]} {part[key]['value']:.3f}{_interval(part[key]['interval'])}" for key in STATISTICS)
        lines.append(f"{name:<22}" + "  ".join(values))
    return "\n".join(lines)


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"


def _jsonable(value: Any) -> Any:
    """NaN has no place in JSON: null says "undefined"."""
    if isinstance(value, Mapping):
        return {key: _jsonable(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value
