"""A run's folder: where everything one training or evaluation makes is kept, with what made it."""

from __future__ import annotations

import datetime
import importlib.metadata
import inspect
import json
import platform
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from monai.bundle import ConfigParser

from sam_lora import __version__
from sam_lora.files import writable_folder, write_json

CHECKPOINT, CONFIG = "checkpoint.pt", "config.json"


def run_folder(output_dir: str, task_name: str, resume: str | None = None) -> str:
    """Make the folder ``<output_dir>/<task_name>-<timestamp>`` of a new run, or find that of a run to continue.

    Of several processes the first one does it, and tells the others.

    Raises:
        ValueError: if the folder cannot be written to, or there is nothing to continue in ``resume``.
    """
    folder = _run_folder(output_dir, task_name, resume) if idist.get_rank() == 0 else ""
    return str(idist.broadcast(folder, safe_mode=True))


def _run_folder(output_dir: str, task_name: str, resume: str | None) -> str:
    if resume:
        folder = Path(resume)
        if not (folder / CHECKPOINT).is_file():
            raise ValueError(f"resume must be the folder of a run that was stopped, {folder} has no {CHECKPOINT}.")
        return str(writable_folder(folder, "resume"))
    parent = writable_folder(Path(output_dir), "output_dir")
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder, number = parent / f"{task_name}-{now}", 1
    while folder.exists():  # two runs in one second
        number += 1
        folder = parent / f"{task_name}-{now}-{number}"
    folder.mkdir()
    return str(folder)


def write_provenance(folder: Path) -> None:
    """Write what made a run: ``config.json``, the executed config with its overrides, and ``versions.json``."""
    config = executed_config()
    if config:
        write_json(folder / CONFIG, config)
    packages = ("monai", "pytorch-ignite", "torch", "numpy", "nibabel", "safetensors")
    versions = {name: importlib.metadata.version(name) for name in packages}
    write_json(folder / "versions.json", {"sam_lora": __version__, "python": platform.python_version(), **versions})


# Settings that make a run what it is: with another value it would be another run. Epochs may grow.
KEPT = ("batch_size", "accumulation_steps", "learning_rate", "weight_decay", "seed", "prompt_mode", "box_jitter",
        "num_points", "min_pixels", "every", "label", "corrections", "absent", "balanced", "parts", "augment", "versions", "slices_per_epoch",
        "optimizer_name", "decoder_learning_rate", "warm_up", "decay", "max_norm", "iou_weight", "amp")  # fmt: skip
SINCE = {"parts": False}  # what runs did whose config does not name it


def refuse_changed_settings(folder: Path) -> None:
    """Make sure that a run is continued with the settings it began with.

    Raises:
        ValueError: naming the first that differs, and both values.
    """
    path, now = folder / CONFIG, executed_config()
    before = {**SINCE, **json.loads(path.read_text(encoding="utf-8"))} if path.is_file() else {}
    for name in KEPT:
        if before and now and before.get(name) != now.get(name):
            raise ValueError(
                f"{folder} was trained with {name} {before.get(name)}, now it is {now.get(name)}: keep it to resume."
            )
    if before and now and bool(before.get("trunk_cache")) != bool(now.get("trunk_cache")):  # bfloat16, or exact
        raise ValueError(f"{folder} was trained with trunk_cache {before.get('trunk_cache')}: keep it to resume.")


def executed_config() -> dict[str, Any]:
    """The config that is being executed, overrides included; empty when no config is.

    MONAI shows a config's objects their own arguments only. The parser that is building them is on the call stack.
    """
    frame = inspect.currentframe()
    found: dict[str, Any] = {}
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, ConfigParser):
            found = owner.config  # the outermost parser holds the whole config
        frame = frame.f_back
    return found
