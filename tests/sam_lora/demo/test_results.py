"""The demonstration without a window: files, and that they hold what the predictor answers."""

import json
import runpy
import sys

import nibabel
import numpy as np
import pytest
from PIL import Image

from sam_lora.demo.results import answer_requests, check_unwritten
from sam_lora.predictor import Predictor
from sam_lora.prompts import PromptError
from sam_lora.reading import CaseError
from sam_lora.shown import ShownImage
from tests.conftest import REPOSITORY, write_random_adapter
from tests.sam_lora.demo.test_session import bright_array
from tests.sam_lora.test_propagation import BrightSam
from tests.scripts.test_commands import exit_code

REQUESTS = [
    {"label": "bar", "roi": [8, 19, 5, 11, 1, 1], "background": [[30, 20, 3]]},
    {"label": "block", "foreground": [[6, 21, 2]], "roi": [4, 9, 18, 25, 2, 2]},
    {"label": "block", "foreground": [[30, 8, 2]]},
]


@pytest.fixture
def case(tmp_path):
    image = np.moveaxis(bright_array(4), (0, 1, 2), (2, 1, 0))
    np.savez(tmp_path / "case.npz", imgs=image, affine=np.diag([1.0, 1, 2, 1]))
    return ShownImage.read(tmp_path / "case.npz", {"percentiles": [0, 100]})


def test_the_command_writes_mask_overlay_and_prompted_slices(case, tmp_path, monkeypatch, capsys):
    (tmp_path / "prompts.json").write_text(json.dumps(REQUESTS))
    network = write_random_adapter(tmp_path / "a.safetensors")
    arguments = [case.path, "--headless", tmp_path / "prompts.json", "--adapter", tmp_path / "a.safetensors"]
    arguments += ["--output", tmp_path / "out", "--device", "cpu"]
    for more in ([], ["--propagate", "--overwrite"]):
        monkeypatch.setattr(sys, "argv", ["demo.py", *map(str, arguments + more)])
        runpy.run_path(str(REPOSITORY / "scripts" / "demo.py"), run_name="__main__")
        printed = capsys.readouterr().out.splitlines()
        names = ["mask.nii.gz", "overlay.png", "slice_001.png", "slice_002.png", "slice_003.png"]
        assert printed == [str(tmp_path / "out" / f"case_{name}") for name in names]
        direct = Predictor(network.merged())
        direct.set_volume(case.array)
        expected = direct.segment(REQUESTS, propagated=bool(more))
        found = nibabel.load(printed[0])
        assert np.array_equal(np.asanyarray(found.dataobj), expected)
        assert np.array_equal(found.affine, case.affine)
        assert set(np.unique(expected)) == {0, 1, 2}
        for path in printed[1:]:
            picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
            assert (np.ptp(picture, 2) > 30).sum() > 20, path  # something is drawn in colour


def test_a_picture_of_a_slice_shows_prompts_where_they_are(case, tmp_path):
    predictor = Predictor(BrightSam())
    predictor.set_volume(case.array)
    alone, *_ = answer_requests(predictor, case, {"foreground": [[12, 8, 0]]}, tmp_path / "out")
    assert np.asanyarray(nibabel.load(alone).dataobj).any()
    picture = np.asarray(Image.open(tmp_path / "out" / "case_slice_000.png").convert("RGB")).astype(int)
    # RAS: x and y run to the left and upwards, so voxel (12, 8) of 40 x 30 is right of the middle and below it
    height, width = picture.shape[:2]
    rows, columns = np.nonzero(picture.sum(2) < 40)  # the black edge of the mark; all else is brighter
    near = (np.abs(columns / width - (1 - 12.5 / 40)) < 0.03) & (np.abs(rows / height - (1 - 8.5 / 30)) < 0.06)
    assert near.sum() > 4


def test_wrong_prompts_are_a_sentence_and_nothing_is_written(case, tmp_path, monkeypatch, capsys):
    predictor = Predictor(BrightSam())
    predictor.set_volume(case.array)
    with pytest.raises(PromptError, match="lies outside the volume of 40 x 30 x 4 voxels"):
        answer_requests(predictor, case, {"foreground": [[6, 21, 9]]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    arguments = [case.path, "--headless", tmp_path / "none.json", "--output", tmp_path / "out"]
    assert exit_code("demo.py", arguments, monkeypatch) == 1
    assert "The prompts file" in capsys.readouterr().err
    assert exit_code("demo.py", [case.path, "--propagate"], monkeypatch) == 1
    assert capsys.readouterr().err == "error: propagate is for --headless; in the window, the key p propagates.\n"
    assert not (tmp_path / "out").exists()


def test_files_that_are_there_stay_unless_asked(case, tmp_path):
    check_unwritten(tmp_path, case)
    (tmp_path / "case_2_mask.nii.gz").touch()  # another case's
    check_unwritten(tmp_path, case)
    (tmp_path / "case_prompts.json").touch()
    with pytest.raises(CaseError, match=r"case_prompts.json is there already: --overwrite replaces it, --output names"):
        check_unwritten(tmp_path, case)
    check_unwritten(tmp_path, case, overwrite=True)
