"""How much of an object a propagation finds from one box, beside a box on every slice, and what a long volume costs."""

from __future__ import annotations

import dataclasses
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from json import dumps, loads
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sam_lora.build import build_sam_lora
from sam_lora.cases import read_image, read_label
from sam_lora.embedding import Embedder
from sam_lora.files import write_json
from sam_lora.metrics import dice
from sam_lora.requests import read_requests
from sam_lora.segmentation import segment
from sam_lora.volumes import Volume

COMMAND = Path(__file__).parents[1] / "benchmark.py"
# kidneys, liver and spleen in TotalSegmentator's numbers: its own output, not ground truth
CT_ORGANS = {1: "spleen", 2: "kidney right", 3: "kidney left", 5: "liver"}
HIPPOCAMPUS = {1: "hippocampus anterior", 2: "hippocampus posterior"}


@dataclass(frozen=True)
class Row:
    """One object: Dice of its volume from one box, propagated, and from a box on every slice (an oracle).

    Args:
        case: where it is.
        organ: what it is.
        propagated: Dice.
        oracle: Dice.
        first: slices by which the propagated object begins after (or, negative, before) the labelled one.
        last: slices by which it ends after (or before) it.
        slices: that hold the labelled object.
    """

    case: str
    organ: str
    propagated: float
    oracle: float
    first: int
    last: int
    slices: int


def box_on(label: np.ndarray, k: int) -> dict[str, Any]:
    """The request of the box of a binary mask ``(I, J, K)`` on slice ``k``, one slice thick."""
    i, j = np.nonzero(label[:, :, k])
    return {"label": "object", "roi": [int(v) for v in (i.min(), i.max(), j.min(), j.max(), k, k)]}


def measure_object(embedder: Embedder, volume: Volume, truth: np.ndarray, case: str, organ: str) -> Row:
    """Propagate the box of the object's middle slice, and segment every slice from its own box.

    Args:
        embedder: the network.
        volume: the image.
        truth: binary mask ``(I, J, K)``.
        case: named in the row.
        organ: likewise.
    """
    present = np.nonzero(truth.any((0, 1)))[0]
    one = read_requests(box_on(truth, present[len(present) // 2]), volume.shape, {})
    every = read_requests([box_on(truth, k) for k in present], volume.shape, {})
    found = segment(embedder, volume, one, propagated=True) > 0
    reached = np.nonzero(found.any((0, 1)))[0]
    ends = (int(reached[0] - present[0]), int(reached[-1] - present[-1])) if len(reached) else (len(present),) * 2
    oracle = segment(embedder, volume, every) > 0
    return Row(case, organ, dice(found, truth), dice(oracle, truth), *ends, len(present))


def measure_cases(cases: Sequence[tuple[Path, Path]], organs: Mapping[int, str], intensity: Any) -> list[Row]:
    """Rows of all objects of some cases, zero-shot with vit_t.

    Args:
        cases: image and label files.
        organs: label value -> name.
        intensity: see :func:`sam_lora.cases.to_uint8`.
    """
    network = build_sam_lora("vit_t").eval()
    rows = []
    for image_path, label_path in tqdm(cases, desc="cases"):
        image, meta = read_image(image_path, intensity)
        label = read_label(label_path, image.shape[:3], image_path, meta)
        embedder, volume = Embedder(network), Volume(image)
        for value, organ in organs.items():
            if (label == value).any():
                rows.append(
                    measure_object(
                        embedder, volume, label == value, image_path.parent.name + "/" + image_path.name, organ
                    )
                )
    return rows


def table(rows: Sequence[Row]) -> str:
    """Per organ: mean Dice propagated and oracle, their ratio, and the ends' distances (the largest over the cases)."""
    lines = [
        f"{'organ':<24}{'objects':>8}{'one box':>9}{'oracle':>8}{'ratio':>7}{'first':>7}{'last':>6}   (ends off by, slices)"
    ]
    for organ in dict.fromkeys(row.organ for row in rows):
        mine = [row for row in rows if row.organ == organ]
        one, oracle = np.mean([r.propagated for r in mine]), np.mean([r.oracle for r in mine])
        first, last = (max((getattr(r, end) for r in mine), key=abs) for end in ("first", "last"))
        lines.append(f"{organ:<24}{len(mine):>8}{one:>9.3f}{oracle:>8.3f}{one / oracle:>7.2f}{first:>+7}{last:>+6}")
    return "\n".join(lines)


def ct_and_hippocampus(data: Path, every: int = 1) -> Iterator[tuple[str, list[Row]]]:
    """The rows of the CT's four organs and of the hippocampus cases 61 to 80, sorted by name.

    Args:
        data: the folder of real images.
        every: take every n-th hippocampus case.
    """
    ct = data / "ct-totalsegmentator" / "case01_abdomen_ct"
    images = sorted((data / "mr-hippocampus-msd" / "images").glob("*.nii.gz"))[60:80:every]
    pairs = [(ct / "image.nii.gz", ct / "label.nii.gz")]
    yield "CT case01 (labels are a model's)", measure_cases(pairs, CT_ORGANS, {"window": [40, 400]})
    pairs = [(image, data / "mr-hippocampus-msd" / "labels" / image.name) for image in images]
    yield "MR hippocampus cases 61-80", measure_cases(pairs, HIPPOCAMPUS, {"percentiles": [0.5, 99.5]})


def volume(data: str | None = None, every: int = 1, lengths: Any = (30, 300), json: str | None = None) -> None:
    """Time and memory of long volumes; then Dice of objects from one box beside the oracle, on CT and MR.

    Args:
        data: folder of the real images; $SAM_LORA_DATA by default, without either only the long volumes are run.
        every: take every n-th hippocampus case.
        lengths: slices of the synthetic volumes, 512 x 512 each.
        json: also write the figures there.
    """
    figures: dict[str, Any] = {}
    # First, while this process is small: one that it starts counts this one's peak memory as its own.
    peaks = []
    for slices in lengths:
        command = [sys.executable, str(COMMAND), "long_volume", str(slices)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603  our own script
        cost = figures[f"512 x 512 x {slices}"] = loads(done.stdout.splitlines()[-1])
        peaks.append(cost["peak_gb"])
        print(
            f"512 x 512 x {slices}: {cost['reached']} slices in {cost['seconds']:.0f} s, "
            f"{cost['slices_per_second']:.2f} a second, peak {cost['peak_gb']:.2f} GB, {peaks[-1] / peaks[0]:.2f}x",
            flush=True,
        )
    data = data or os.environ.get("SAM_LORA_DATA")
    if data:
        print("\nvit_t as published, no training. One box: on the object's middle slice, k0 = k1, propagated.")
        print("Oracle: a box on every slice. Boxes are those of the labels.")
        for title, rows in ct_and_hippocampus(Path(data), every):
            figures[title] = [dataclasses.asdict(row) for row in rows]
            print(f"\n{title}\n{table(rows)}", flush=True)
    if json:
        write_json(Path(json), figures)


def long_volume(slices: int) -> None:
    """Propagate one object through a synthetic volume of 512 x 512 pixels; print its cost as JSON.

    Args:
        slices: of the volume; the object, a drifting ellipse in noise, is on all of them.
    """
    generator = np.random.default_rng(0)
    image = generator.integers(30, 70, (512, 512, slices), dtype=np.uint8)
    x, y = np.ogrid[:512, :512]
    for k in range(slices):
        inside = ((x - 250 - 40 * np.sin(k / 30)) / 90) ** 2 + ((y - 260) / 70) ** 2 < 1
        image[:, :, k][inside] += 110
    volume, embedder = Volume(image), Embedder(build_sam_lora("vit_t"))
    middle = slices // 2
    centre = int(250 + 40 * np.sin(middle / 30))
    objects = read_requests({"roi": [centre - 90, centre + 90, 190, 330, middle, middle]}, volume.shape, {})
    started = time.perf_counter()
    found = segment(embedder, volume, objects, propagated=True)
    seconds = time.perf_counter() - started
    cost = {
        "seconds": seconds,
        "slices_per_second": slices / seconds,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "reached": int(found.any((0, 1)).sum()),
    }
    print(dumps(cost))
