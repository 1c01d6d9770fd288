"""`scripts/segment.py` as a user types it: every way to ask, every format out, and nothing written after an error."""

import json
import runpy
from functools import partial

import nibabel
import numpy as np
import pytest
from PIL import Image

from sam_lora.automatic import AutomaticMaskGenerator
from sam_lora.cases import read_array
from sam_lora.cli import run
from sam_lora.dicom_seg import read_seg
from tests.conftest import REPOSITORY, phantom
from tests.dicom import write_series

AFFINE = np.array([[-0.8, 0, 0, 10], [0, 0.9, 0.1, -20], [0, -0.1, 2.5, 5], [0, 0, 0, 1.0]])
BAR = "8,19,5,11,2,2"


@pytest.fixture
def segment(tmp_path, monkeypatch, capsys):
    """The command, in this process and in ``tmp_path``: exit code, stdout and stderr."""
    main = runpy.run_path(str(REPOSITORY / "scripts" / "segment.py"))["main"]

    def command(*words):
        monkeypatch.chdir(tmp_path)
        usual = {"--image_size": "64", "--device": "cpu"}
        others = [x for option, value in usual.items() if option not in words for x in (option, value)]
        monkeypatch.setattr("sys.argv", ["segment.py", *map(str, words), *others])
        capsys.readouterr()
        code = 0
        try:
            run(main, "segment.py")
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return command


@pytest.fixture
def volume(tmp_path):
    """A phantom as NIfTI, with its label map beside it."""
    image, label = (np.moveaxis(a, (0, 1, 2), (2, 1, 0)) for a in phantom())
    nibabel.save(nibabel.Nifti1Image(image.astype(np.int16), AFFINE), tmp_path / "v.nii.gz")
    nibabel.save(nibabel.Nifti1Image(label, AFFINE), tmp_path / "l.nii.gz")
    return image, label


def read(path):
    file = nibabel.load(path)
    return np.asanyarray(file.dataobj), file.affine


def test_a_box_gives_a_mask_on_the_image_s_grid_and_a_picture(segment, volume, tmp_path):
    code, out, err = segment("v.nii.gz", "--output", "m.nii.gz", "--box", BAR, "--overlay", "o.png")
    assert code == 0, err
    assert out.split() == ["m.nii.gz", "o.png"]
    mask, affine = read(tmp_path / "m.nii.gz")
    assert mask.shape == volume[0].shape
    assert np.array_equal(affine, nibabel.load(tmp_path / "v.nii.gz").affine)
    assert np.unique(np.nonzero(mask)[2]).tolist() == [2]
    assert (mask[8:20, 5:12, 2] == 1).mean() > 0.5
    assert Image.open(tmp_path / "o.png").size[0] > 200


def test_propagation_a_prompts_file_and_boxes_per_label_agree(segment, volume, tmp_path):
    asked = [{"label": "bar", "roi": [8, 19, 5, 11, 2, 2]}, {"label": "block", "roi": [4, 9, 18, 25, 2, 2]}]
    (tmp_path / "p.json").write_text(json.dumps(asked))
    code, _, err = segment("v.nii.gz", "--output", "a.nii.gz", "--prompts", "p.json", "--propagate")
    assert code == 0, err
    boxes = json.dumps({one["label"]: one["roi"] for one in asked})
    assert segment("v.nii.gz", "--output", "b.nii.gz", "--box", boxes, "--propagate")[0] == 0
    whole, boxed = read(tmp_path / "a.nii.gz")[0], read(tmp_path / "b.nii.gz")[0]
    assert np.array_equal(whole, boxed)
    assert set(np.unique(whole)) == {0, 1, 2}
    assert len(np.unique(np.nonzero(whole)[2])) > 1


def test_a_drawn_mask_prompts_and_keeps_its_values(segment, volume, tmp_path):
    code, _, err = segment("v.nii.gz", "--output", "m.nii.gz", "--mask", "l.nii.gz")
    assert code == 0, err
    mask, label = read(tmp_path / "m.nii.gz")[0], volume[1]
    assert set(np.unique(mask)) <= {0, 1, 2}
    for value in (1, 2):
        assert 2 * ((mask == value) & (label == value)).sum() / ((mask == value).sum() + (label == value).sum()) > 0.5


def test_a_dicom_series_becomes_a_dicom_seg_that_says_who_made_it(segment, volume, tmp_path):
    write_series(tmp_path / "series", volume[0].astype(np.int16), AFFINE)
    code, _, err = segment("series", "--output", "m.dcm", "--box", '{"spleen": [8, 19, 5, 11, 2, 2]}')
    assert code == 0, err
    assert segment("series", "--output", "m.nii.gz", "--box", BAR)[0] == 0
    _, meta = read_array(tmp_path / "series", "imgs")
    label, names = read_seg(tmp_path / "m.dcm", tmp_path / "series", meta["affine"])
    assert names == {1: "spleen"}
    assert np.array_equal(label, read(tmp_path / "m.nii.gz")[0])
    import pydicom

    (described,) = pydicom.dcmread(tmp_path / "m.dcm").SegmentSequence
    assert described.SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert described.SegmentAlgorithmName == "SAM-LoRA"


def test_pictures_take_two_dimensions_and_everything(segment, tmp_path, monkeypatch, caplog):
    Image.fromarray(phantom()[0][2]).save(tmp_path / "p.png")
    code, _, err = segment("p.png", "--output", "m.png", "--box", "8,19,5,11")
    assert code == 0, err
    mask = np.asarray(Image.open(tmp_path / "m.png"))
    assert mask.shape == (30, 40)
    assert (mask[5:12, 8:20] == 1).mean() > 0.5
    monkeypatch.setattr("sam_lora.inferers.AutomaticMaskGenerator", partial(AutomaticMaskGenerator, points_per_side=3))
    with caplog.at_level("WARNING"):
        code, _, err = segment("p.png", "--output", "all.png", "--everything")
    assert code == 0, err
    assert not np.asarray(Image.open(tmp_path / "all.png")).any()
    assert "Nothing was found without a prompt" in caplog.text  # vit_t answers no points; the file is empty and says so


def test_another_axis_is_the_turned_image_s_first(segment, volume, tmp_path):
    turned = np.transpose(volume[0], (2, 0, 1)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(turned, np.eye(4)), tmp_path / "t.nii.gz")
    assert segment("t.nii.gz", "--output", "t_m.nii.gz", "--box", "2,2,8,19,5,11", "--axis", 0)[0] == 0
    assert segment("v.nii.gz", "--output", "v_m.nii.gz", "--box", BAR)[0] == 0
    turned_mask, mask = read(tmp_path / "t_m.nii.gz")[0], read(tmp_path / "v_m.nii.gz")[0]
    assert np.array_equal(np.transpose(turned_mask, (1, 2, 0)), mask)


def test_a_mask_that_lies_elsewhere_is_refused_and_a_seg_is_taken(segment, volume, tmp_path):
    mirrored = AFFINE @ np.array([[-1, 0, 0, 39], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(volume[1][::-1], mirrored), tmp_path / "flip.nii.gz")
    code, _, err = segment("v.nii.gz", "--output", "m.nii.gz", "--mask", "flip.nii.gz")
    assert code == 1
    assert "flip.nii.gz and v.nii.gz have 40 x 30 x 4 voxels each, and their affines differ" in err
    write_series(tmp_path / "100", volume[0].astype(np.int16), AFFINE)  # fire takes such a name for a number
    assert segment("100", "--output", "seg.dcm", "--box", BAR)[0] == 0
    code, _, err = segment("100", "--output", "again.nii.gz", "--mask", "seg.dcm")
    assert code == 0, err
    assert read(tmp_path / "again.nii.gz")[0].any()
    before = sorted(p.name for p in (tmp_path / "100").iterdir())
    for name in ("100/000.dcm", "100/seg.dcm"):
        code, _, err = segment("100", "--output", name, "--box", BAR, "--overwrite")
        assert code == 1
        assert f"{name} would lie among the files of the series 100" in err
    assert sorted(p.name for p in (tmp_path / "100").iterdir()) == before


def test_no_file_is_overwritten_unasked_and_the_image_never(segment, volume, tmp_path):
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    code, _, err = segment("v.nii.gz", "--output", "l.nii.gz", "--mask", "l.nii.gz")
    assert code == 1
    assert "l.nii.gz is there already: --overwrite replaces it" in err
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "v.nii.gz")
    for name in ("v.nii.gz", "link.nii.gz"):
        code, _, err = segment("v.nii.gz", "--output", name, "--box", BAR, "--overwrite")
        assert code == 1
        assert f"{name} is there already: it is the image itself" in err
    Image.fromarray(phantom()[0][2]).save(tmp_path / "p.png")
    before["p.png"] = (tmp_path / "p.png").read_bytes()
    code, _, err = segment("p.png", "--output", "m.png", "--box", "8,19,5,11", "--overlay", "p.png", "--overwrite")
    assert code == 1
    assert "p.png is there already: it is the image itself" in err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name != "link.nii.gz"} == before
    assert segment("v.nii.gz", "--output", "l.nii.gz", "--mask", "l.nii.gz", "--overwrite")[0] == 0
    assert (tmp_path / "l.nii.gz").read_bytes() != before["l.nii.gz"]


WRONG = {
    "nothing asked": (["v.nii.gz"], "Give one of --prompts, --box, --label, --mask and --everything, got none"),
    "two ways": (["v.nii.gz", "--box", BAR, "--everything"], "got box, everything"),
    "ending": (["v.nii.gz", "--box", BAR, "--output", "m.txt"], "output must end in .nii.gz, .png"),
    "seg of a file": (["v.nii.gz", "--box", BAR, "--output", "m.dcm"], "needs a folder with a DICOM series"),
    "png of a volume": (["v.nii.gz", "--box", BAR, "--output", "m.png"], "is a picture, and the image has 4 slices"),
    "overlay": (["v.nii.gz", "--box", BAR, "--overlay", "m.nii.gz"], "overlay must be a .png of its own, got m.nii.gz"),
    "no folder": (["v.nii.gz", "--box", BAR, "--output", "no/m.nii.gz"], "no must be a folder that can be written to"),
    "no overlay folder": (["v.nii.gz", "--box", BAR, "--overlay", "no/o.png"], "no must be a folder that can be"),
    "label and prompts": (["v.nii.gz", "--mask", "l.nii.gz", "--label", "a"], "beside --mask it says nothing"),
    "everything": (["v.nii.gz", "--everything", "--propagate"], "everything has no prompted slices to propagate from"),
    "switch": (["v.nii.gz", "--box", BAR, "--propagate", "no"], "propagate must be True or False, got 'no'"),
    "size": (["v.nii.gz", "--box", BAR, "--image_size", "x"], "image_size must be a whole number of at least 1, got 'x'"),
    "no image": (["nowhere.nii.gz", "--box", BAR], "There is no nowhere.nii.gz"),
    "no adapter": (["v.nii.gz", "--box", BAR, "--adapter", "a.safetensors"], "There is no adapter a.safetensors"),
    "outside": (["v.nii.gz", "--box", "50,60,5,11,2,2"], "lies outside the volume of 40 x 30 x 4 voxels"),
    "nan": (["v.nii.gz", "--prompts", "nan.json"], "must be finite"),
    "dimensions": (["v.nii.gz", "--box", "1,2,3"], "roi of the request must be i0, i1, j0, j1, k0, k1"),
    "words": (["v.nii.gz", "--box", "left"], "roi of the request must be a list of numbers"),
    "prompts file": (["v.nii.gz", "--prompts", "nowhere.json"], "The prompts file nowhere.json cannot be read"),
    "four dimensions": (["4d.nii.gz", "--box", BAR], "must be one image or one volume, it has shape"),
    "empty": (["empty.npz", "--box", BAR], "is empty: its shape is"),
    "nan image": (["nan.nii.gz", "--box", BAR], "values that are NaN or infinite"),
    "mask shape": (["v.nii.gz", "--mask", "4d.nii.gz"], "4d.nii.gz"),
    "empty mask": (["v.nii.gz", "--mask", "zero.nii.gz"], "The mask that is to prompt holds no object"),
    "label": (["v.nii.gz", "--label", "spleen"], "label must be one of the values in the masks, got 'spleen'"),
    "axis": (["v.nii.gz", "--box", BAR, "--axis", 3], "axis must be 0, 1 or 2"),
    "device": (["v.nii.gz", "--box", BAR, "--device", "cuda:99"], "cuda:99 cannot be used"),
    "window": (["v.nii.gz", "--box", BAR, "--window", "belly"], "window must be LEVEL,WIDTH or one of"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_ends_with_a_sentence_and_writes_nothing(segment, volume, tmp_path, case):
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), np.eye(4)), tmp_path / "4d.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros((40, 30, 4), np.uint8), AFFINE), tmp_path / "zero.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.full((40, 30, 4), np.nan), AFFINE), tmp_path / "nan.nii.gz")
    np.savez(tmp_path / "empty.npz", imgs=np.zeros((0, 3, 3), np.uint8), gts=np.zeros((0, 3, 3), np.uint8))
    (tmp_path / "nan.json").write_text('{"foreground": [[NaN, 1, 1]]}')
    before = sorted(p.name for p in tmp_path.iterdir())
    words, sentence = WRONG[case]
    output = [] if "--output" in words else ["--output", "m.nii.gz"]
    code, out, err = segment(*words, *output)
    assert code == 1, err
    assert out == ""
    assert sentence in err
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == before
