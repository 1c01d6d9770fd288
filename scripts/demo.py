"""Try it by hand: a window with one image or volume, clicks and boxes, and masks at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sam_lora.build import build_sam_lora
from sam_lora.cli import run
from sam_lora.data.ct_mr import window_of
from sam_lora.demo.results import answer_requests, check_unwritten
from sam_lora.demo.session import Session
from sam_lora.demo.window import open_figure, show_window
from sam_lora.files import writable_folder
from sam_lora.inferers import inference_entries
from sam_lora.predictor import Predictor
from sam_lora.settings import find_device
from sam_lora.shown import ShownImage


def main(  # noqa: PLR0913  a command has options
    case: str, headless: Any = None, propagate: bool = False, adapter: str | None = None, variant: str | None = None,
    image_size: int | None = None, window: Any = None, output: str = "demo_out", overwrite: bool = False, device: str = "auto",
    axis: int = 2,
) -> None:  # fmt: skip
    """Open a window with CASE to click, draw boxes and see masks; key h shows help.

    Args:
        case: NIfTI, NRRD, MHA, picture, npz, or a folder with one DICOM series.
        headless: JSON file of prompts, as a MONAI Label client sends them: no window, pictures instead.
        propagate: with --headless, whole objects from their prompted slices.
        adapter: adapter file.
        variant: base, where no adapter says.
        image_size: pixels a side of what the network sees, where no adapter says.
        window: CT preset or LEVEL,WIDTH, where no adapter says.
        output: folder for masks, prompts and pictures.
        overwrite: replace files that are there.
        device: auto, cpu, mps or cuda:N.
        axis: of the slices.
    """
    if propagate and headless is None:
        raise ValueError("propagate is for --headless; in the window, the key p propagates.")
    requests: Any = None if headless is None else inference_entries(case, headless)[0]["prompts"]
    figure = open_figure() if headless is None else None
    where = find_device(device)
    intensity = None if window is None else window_of("CT", tuple(window) if isinstance(window, list) else window)
    network = build_sam_lora(variant, adapter=adapter, image_size=image_size, intensity=intensity)
    shown = ShownImage.read(Path(case), network.spec.intensity, axis)
    folder = writable_folder(Path(output), "output")
    check_unwritten(folder, shown, overwrite)
    predictor = Predictor(network.merged().to(where), network.spec.labels)
    predictor.set_volume(shown.array, axis)
    if figure is not None:
        show_window(figure, Session(predictor), shown, folder)
        return
    for path in answer_requests(predictor, shown, requests, folder, propagate):
        print(path)


if __name__ == "__main__":
    run(main, "demo.py")
