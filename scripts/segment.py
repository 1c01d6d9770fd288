"""Segment one image or volume from clicks, boxes, a rough mask, a label's name, or everything in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sam_lora.build import build_sam_lora
from sam_lora.cli import run
from sam_lora.data.ct_mr import window_of
from sam_lora.inferers import LoadCased, PromptInferer, inference_entries
from sam_lora.outputs import check_output, names_in, shown_image, write_output, write_overlay
from sam_lora.prompts import PromptError
from sam_lora.settings import check_values, find_device


def main(  # noqa: PLR0913  a command has options
    image: str, output: str, prompts: str | None = None, box: Any = None, label: str | None = None,
    mask: str | None = None, everything: bool = False, propagate: bool = False, axis: int = 2,
    adapter: str | None = None, variant: str | None = None, image_size: int | None = None, window: Any = None,
    overlay: str | None = None, overwrite: bool = False, device: str = "auto",
) -> None:  # fmt: skip
    """Segment IMAGE and write a label map on its grid.

    Args:
        image: NIfTI, NRRD, MHA, picture, npz, or a folder with one DICOM series.
        output: .nii.gz, .png (a picture's), or .dcm (DICOM SEG of a series).
        prompts: JSON file, as a MONAI Label client sends them.
        box: I0,I1,J0,J1[,K0,K1], or {"spleen": [...], "liver": [...]}.
        label: of the box; alone, what an adapter segments without prompts.
        mask: label map to refine or propagate.
        everything: all that can be told apart, each slice by itself.
        propagate: whole objects from their prompted slices.
        axis: of the slices.
        adapter: adapter file.
        variant: base, where no adapter says.
        image_size: pixels a side of what the network sees, where no adapter says.
        window: CT preset or LEVEL,WIDTH, where no adapter says.
        overlay: PNG to look at.
        overwrite: replace a file that is there.
        device: auto, cpu, mps or cuda:N.
    """
    switches = {"propagate": propagate, "everything": everything, "overwrite": overwrite}
    check_values({"image_size": image_size, "axis": axis, **switches})
    source, target = Path(str(image)), Path(str(output))
    drawing = None if overlay is None else Path(str(overlay))
    if drawing is not None and (drawing.suffix != ".png" or drawing == target):
        raise PromptError(f"overlay must be a .png of its own, got {drawing}.")
    for path in filter(None, (target, drawing)):
        check_output(path, source, overwrite)
    asked = _requests(prompts, box, label, mask, everything)
    if everything and propagate:
        raise PromptError("everything has no prompted slices to propagate from: give one of the two.")
    where = find_device(device)
    intensity = None if window is None else window_of("CT", tuple(window) if isinstance(window, list) else window)
    given = None if adapter is None else str(adapter)
    network = build_sam_lora(variant, adapter=given, image_size=image_size, intensity=intensity)
    entry: Any = inference_entries(str(source), asked, mask=None if mask is None else str(mask))[0]
    loaded: Any = LoadCased(intensity=network.spec.intensity)(entry)["image"]
    check_output(target, source, overwrite, slices=loaded.shape[-1])
    alone = None if box is not None else label
    inferer = PromptInferer(network.spec.labels, alone, propagate, axis, everything, show_progress=True)
    with torch.autocast(torch.device(where).type, enabled=where.startswith("cuda")):
        answer = inferer(loaded[None], network.merged().to(where))
    found = answer[0, 0].numpy()
    write_output(target, found, np.asarray(loaded.affine), source, names_in(answer))
    print(target)
    if drawing is not None:
        write_overlay(drawing, shown_image(loaded, axis), found)
        print(drawing)


def _requests(prompts: str | None, box: Any, label: str | None, mask: str | None, everything: bool) -> Any:
    """What is asked as requests or the path of their file; None where label, mask or everything says it all."""
    ways = {"prompts": prompts, "box": box, "mask": mask, "everything": everything or None}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1 or (not given and label is None):
        names = ", ".join(given) or "none"
        raise PromptError(f"Give one of --prompts, --box, --label, --mask and --everything, got {names}.")
    if label is not None and given and (given != ["box"] or isinstance(box, dict)):
        raise PromptError(f"--label names a single --box, or stands alone; beside --{given[0]} it says nothing.")
    if box is None:
        return None if prompts is None else str(prompts)
    boxes = box if isinstance(box, dict) else {label: box}
    requests = [{"label": name, "roi": list(roi) if isinstance(roi, tuple) else roi} for name, roi in boxes.items()]
    return [{key: value for key, value in one.items() if value is not None} for one in requests]


if __name__ == "__main__":
    run(main, "segment.py")
