"""Peak memory of preparing cases, each measurement in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from json import loads
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from sam_lora.data import ct_mr as volumes
from sam_lora.data.labels import LabelRules
from sam_lora.files import write_json

COMMAND = Path(__file__).parents[1] / "benchmark.py"


def data(slices: int = 600, json: str | None = None) -> None:
    """Peak memory of `data.py ct_mr`: one large CT with its mask in every way of preparing, and two cases against eight.

    Args:
        slices: of the large CT, 512 x 512 each.
        json: also write the figures there.
    """
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        large, small = Path(name) / "large", Path(name) / "small"
        _elsewhere(_write_cts, large, 1, slices)
        for title, options in PREPARATIONS.items():
            _measure(figures, f"512 x 512 x {slices}, {title}", large, *options)
        for count in (2, 8):
            _elsewhere(_write_cts, small, count, 60)
            for processes in (1, 2):
                title = f"{count} of 512 x 512 x 60, {processes} process{'es, the largest' if processes > 1 else ''}"
                _measure(figures, title, small, "--processes", str(processes))
    if json:
        write_json(Path(json), figures)


PREPARATIONS = {
    "CT window to npz": (),
    "percentiles to npz": ("--window", "None"),
    "parts of a label apart": ("--split", "blob"),
    "raw to NIfTI": ("--as_nifti",),
}


def _elsewhere(do: Callable[..., None], *arguments: Any) -> None:
    """Do something in a process of its own: a process that is started counts its parent's peak memory as its own."""
    process = multiprocessing.get_context("spawn").Process(target=do, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise ValueError(f"{do.__name__} ended with {process.exitcode}: see its message above.")


def _write_cts(folder: Path, count: int, slices: int) -> None:
    """Write synthetic CTs of 512 x 512 x SLICES with masks of two labels, compressed as hospitals' are."""
    generator = np.random.default_rng(0)
    for number in range(count):
        noise = generator.integers(-1000, 1000, (512, 512, 1), dtype=np.int16)
        image = np.repeat(noise, slices, 2) + np.arange(slices, dtype=np.int16) % 50
        label = np.zeros(image.shape, np.uint8)
        label[100:200, 100:200], label[300:320, 300:320, ::3] = 1, 2
        for kind, array in (("images", image), ("labels", label)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / kind / f"case{number}.nii.gz")


def _measure(figures: dict[str, float], title: str, folder: Path, *options: str) -> None:
    """Run `prepare` in a process of its own; print and keep its peak memory."""
    command = [sys.executable, str(COMMAND), "prepare", str(folder), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603  our own script
    figures[title] = loads(done.stdout.splitlines()[-1])
    print(f"{title}: peak {figures[title]:.2f} GB", flush=True)


def prepare(
    folder: str, window: Any = (40.0, 400.0), split: str | None = None, as_nifti: bool = False, processes: int = 1
) -> None:
    """Prepare FOLDER's cases and print the largest peak memory of this process and of its workers, in GB.

    Args:
        folder: with images and labels.
        window: level and width; None: percentiles.
        split: label whose parts become objects.
        as_nifti: raw intensities to NIfTI.
        processes: how many cases at once; with several, only the workers count.
    """
    intensity = volumes.window_of("CT" if window else "MR", window)
    rules = LabelRules(split=split)
    with tempfile.TemporaryDirectory() as out:
        volumes.prepare(
            f"{folder}/images", f"{folder}/labels", Path(out), intensity, rules, {1: "box", 2: "blob"}, "training",
            as_nifti, processes,
        )  # fmt: skip
    who = resource.RUSAGE_SELF if processes == 1 else resource.RUSAGE_CHILDREN
    print(resource.getrusage(who).ru_maxrss / 2**20)
