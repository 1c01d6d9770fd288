"""Training on saved labels, by the bundle's own config, in the process that MONAI Label starts for it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import run as run_bundle
from monailabel.interfaces.tasks.train import TrainTask

from monailabel_app.lib.adapters import ENDING, Adapters
from monailabel_app.lib.datastores.label_names import mapped_label
from monailabel_app.lib.datastores.local import StudiesFolder
from monailabel_app.lib.infers.options import slice_axis
from sam_lora.cases import write_nifti
from sam_lora.files import write_aside, write_json
from sam_lora.networks import look_up_variant
from sam_lora.reading import read_array

logger = logging.getLogger(__name__)

CONFIGS = Path(__file__).resolve().parents[3] / "bundle" / "configs"
PRESETS = ("fast", "accurate", "decoder")
HISTORY = "runs/train-*/history.json"
_STRIDE, _ENLARGED = 16, 2.2  # image_size is a multiple of the one; a slice is enlarged by the other, no further


class TrainingError(ValueError):
    """There is nothing to train on, or a setting cannot be used."""


class LoraTraining(TrainTask):
    """Trains an adapter on the labels that people saved, and puts it into the server's folder.

    Cases of the hold-out are never trained on: they choose the best epoch.

    Args:
        adapters: where the adapter goes, and which base it is for.
        names: gives value -> name of what is annotated.
        folder: of the studies' own records; each training keeps its cases, settings and history in one of its own here.
    """

    def __init__(self, adapters: Adapters, names: Callable[[], Mapping[int, str]], folder: Path) -> None:
        super().__init__("SAM-LoRA: a small adapter from the labels that were saved here.")
        self.adapters, self.names, self.folder = adapters, names, folder

    def config(self) -> dict[str, Any]:
        """The options that a client may set: minutes of training; image_size in pixels, 0 chooses by the images."""
        return {"preset": list(PRESETS), "minutes": 5.0, "image_size": 0, "axis": ["2", "1", "0"]}

    def stats(self) -> dict[str, Any]:
        """Of the latest training, as clients show it: epochs done, about how many there will be, time, best Dice."""
        runs = sorted(self.folder.glob("*/settings.json"))
        if not runs:
            return {}
        settings = json.loads(runs[-1].read_text(encoding="utf-8"))
        history = sorted(runs[-1].parent.glob(HISTORY))
        rows = json.loads(history[-1].read_text(encoding="utf-8")) if history else []
        best = [row["val_mean_dice"] for row in rows if row["val_mean_dice"] is not None]
        seconds = rows[-1]["seconds"] if rows else 0.0
        expected = len(rows) if not seconds else round(len(rows) * max(1.0, 60 * settings["minutes"] / seconds))
        return {
            "epoch": len(rows),
            "total_epochs": max(expected, 1),
            "total_time": f"{seconds:.0f} s",
            "best_metric": max(best, default=0.0),
            "model": settings["name"],
            "training_cases": settings["training_cases"],
            "validation_cases": settings["validation_cases"],
        }

    def check(self, request: Mapping[str, Any], datastore: StudiesFolder) -> dict[str, Any]:
        """Read a request before anything is started.

        Returns:
            ``{"preset", "minutes", "image_size", "axis"}``.

        Raises:
            ValueError: if a setting cannot be used, or no label is there to train on.
        """
        preset = request.get("preset") or PRESETS[0]
        preset = preset[0] if isinstance(preset, list) else preset
        if preset not in PRESETS:
            raise TrainingError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}.")
        minutes = _number(request, "minutes", 5.0, 0.05, 24 * 60)
        size = int(_number(request, "image_size", 0, 0, 1024))
        if size % _STRIDE:
            raise TrainingError(f"image_size must be a multiple of {_STRIDE}, or 0 to fit the images, got {size}.")
        if not self._trained_on(datastore):
            raise TrainingError(
                "There is no label to train on: save at least one (the second patient, and every fifth after it, is held out to choose by)."
            )
        return {"preset": preset, "minutes": minutes, "image_size": size, "axis": slice_axis(request)}

    def _trained_on(self, datastore: StudiesFolder) -> list[str]:
        held_out = set(datastore.holdout())
        return [image for image in sorted(datastore.get_labeled_images()) if image not in held_out]

    def __call__(self, request: Mapping[str, Any], datastore: StudiesFolder) -> dict[str, Any]:
        """Train, and publish the best adapter under a name that is its time.

        Raises:
            ValueError: see :meth:`check`; if a label cannot be used, its sentence names it.
        """
        settings = self.check(request, datastore)
        name = f"{datetime.now():%Y%m%d-%H%M%S}"
        run = self.folder / name
        run.mkdir(parents=True)
        training = [self._entry(image, run, datastore, settings["axis"]) for image in self._trained_on(datastore)]
        held_out = sorted(set(datastore.holdout()) & set(datastore.get_labeled_images()))
        validation = [self._entry(image, run, datastore, settings["axis"]) for image in held_out]
        labels = {str(value): label for value, label in self.names().items()}
        write_json(run / "datalist.json", {"training": training, "validation": validation, "labels": labels})
        write_json(
            run / "settings.json",
            {"name": name, **settings, "training_cases": len(training), "validation_cases": len(validation)},
        )
        self._run(run, settings, training)
        self.adapters.folder.mkdir(parents=True, exist_ok=True)
        target = self.adapters.folder / f"{name}{ENDING}"
        with write_aside(target) as temporary:
            temporary.write_bytes((run / "models" / "adapter_best.safetensors").read_bytes())
        logger.info("published %s, trained on %d cases", target, len(training))
        return {"adapter": name, **self.stats()}

    def _entry(self, image: str, run: Path, datastore: StudiesFolder, axis: int) -> dict[str, Any]:
        """An entry of the datalist; its label map has the values of the names that are annotated here."""
        array, meta = read_array(Path(datastore.get_label_uri(image, "final")), "gts")
        info = datastore.get_label_info(image, "final")
        mapped = mapped_label(array, info.get("label_info"), dict(self.names()))
        path = run / "labels" / f"{image}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        write_nifti(path, mapped.astype(np.uint8 if mapped.max() < 256 else np.int32), meta["affine"])
        patient = str(datastore.get_image_info(image).get("patient") or image)
        return {
            "image": datastore.get_image_uri(image), "label": str(path), "name": image, "patient": patient, "axis": axis,
        }  # fmt: skip

    def _run(self, run: Path, settings: Mapping[str, Any], training: list[dict[str, Any]]) -> None:
        size = settings["image_size"] or self._fitting_size(training, settings["axis"])
        run_bundle(
            config_file=[str(CONFIGS / "train.json"), str(CONFIGS / f"{settings['preset']}.json")],
            meta_file=str(CONFIGS / "metadata.json"),
            logging_file=str(CONFIGS / "logging.conf"),
            bundle_root=str(CONFIGS.parent),
            dataset_dir=str(run),
            datalist=str(run / "datalist.json"),
            output_dir=str(run / "runs"),
            ckpt_dir=str(run / "models"),
            task_name="train",
            variant=self.adapters.variant,
            image_size=size,
            minutes=settings["minutes"],
            device=self.adapters.device,
        )

    def _fitting_size(self, training: list[dict[str, Any]], axis: int) -> int:
        """The smallest size that enlarges the largest slice enough, and not above the base's own."""
        shapes = [read_array(Path(entry["image"]), "imgs")[0].shape[:3] for entry in training]
        longest = max(side for shape in shapes for a, side in enumerate(shape) if a != axis)
        wanted = -(-round(longest * _ENLARGED) // _STRIDE) * _STRIDE
        return min(look_up_variant(self.adapters.variant).image_size, max(wanted, 4 * _STRIDE))


def _number(request: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    value = request.get(name)
    value = default if value is None or value == "" else value
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if isinstance(value, bool) or not least <= number <= most:
        raise TrainingError(f"{name} must be a number from {least:g} to {most:g}, got {value!r}.")
    return number
