"""Checks of an installation: what is there, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from sam_lora.adapter import AdapterError, read_adapter
from sam_lora.settings import find_device
from sam_lora.spec import DEFAULT_VARIANT
from sam_lora.weights import CHECKPOINTS, MODELS_DIR, WeightsError, find_weights, read_seal, verify_weights

PACKAGES = {
    "monai": "1.6",
    "torch": "2.4",
    "safetensors": "0.4",
    "nibabel": "5",
    "pytorch-ignite": "0.5",
    "fire": "0.6",
}


@dataclass(frozen=True)
class Finding:
    """One checked thing: whether it is well, and a sentence that says what it is or what to do."""

    name: str
    is_well: bool
    text: str


def examine(device: str = "auto", models: Path = MODELS_DIR) -> list[Finding]:
    """Check Python, packages, device, memory, weights and adapters.

    Args:
        device: "auto", "cpu", "mps" or "cuda:N".
        models: folder of base weights and adapters.
    """
    return [*_software(), _device(device), _memory(), *_weights(models), *_adapters(models)]


def _software() -> Iterator[Finding]:
    supported = (3, 10) <= sys.version_info < (3, 13)
    yield Finding(
        "python", supported, platform.python_version() + ("" if supported else ": install Python 3.10 to 3.12.")
    )
    for name, least in PACKAGES.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, False, "not installed: run `pip install -r requirements.txt`.")
            continue
        enough = _numbers(version) >= _numbers(least)
        yield Finding(name, enough, version if enough else f"{version} is older than {least}: update it.")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())


def _device(device: str) -> Finding:
    try:
        chosen = find_device(device)
    except ValueError as error:
        return Finding("device", False, str(error))
    shown = torch.cuda.get_device_name(chosen) if chosen.startswith("cuda") else f"{torch.get_num_threads()} threads"
    return Finding("device", True, f"{chosen} ({shown})")


def _memory() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0.0
    text = f"{memory:.0f} GiB of memory, {free:.0f} GiB of free disk"
    return Finding("space", free >= 1, text + ("" if free >= 1 else ": free at least 1 GiB for runs and adapters."))


def _weights(models: Path) -> Iterator[Finding]:
    for variant in CHECKPOINTS:
        try:
            path = find_weights(variant, models)
        except WeightsError as error:
            needed = variant == DEFAULT_VARIANT  # the others are there for those who want them
            yield Finding(f"weights {variant}", not needed, str(error) if needed else "not here (optional)")
            continue
        try:
            verify_weights(path, variant)
            yield Finding(f"weights {variant}", True, str(path))
        except WeightsError as error:
            yield Finding(f"weights {variant}", False, str(error))


def _adapters(models: Path) -> Iterator[Finding]:
    if not models.is_dir():
        yield Finding("models", False, f"there is no folder {models}: give the bundle's models folder.")
    for path in sorted(models.glob("*.safetensors")):
        if read_seal(path) is not None:
            continue  # base weights of one's own
        try:
            spec = read_adapter(path).spec
            yield Finding(path.name, True, f"adapter of {spec.variant}, rank {spec.rank}")
        except AdapterError as error:
            yield Finding(path.name, False, str(error))
