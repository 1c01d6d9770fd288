"""What people really hand in, broken in every way: each is refused with its sentence, and nothing is left behind."""

import gzip
import json
import shutil

import itk
import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from tests.conftest import phantom
from tests.dicom import write_series

IMAGE, LABEL = (np.moveaxis(a, (0, 1, 2), (2, 1, 0)) for a in phantom())
CT = ("ct_mr", "i", "l", "out", "--modality", "CT", "--window", "lung")
MR = ("ct_mr", "i", "l", "out")
PICTURES = ("images", "i", "l", "out")


def nifti(folder, kind, array, affine=None, name="a.nii.gz"):
    (folder / kind).mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), folder / kind / name)


def pair(image=None, label=None):
    """A folder of one image and its mask, one of them replaced."""

    def plant(folder):
        nifti(folder, "i", IMAGE.astype(np.int16) if image is None else image)
        nifti(folder, "l", LABEL if label is None else label)

    return plant


def raw(kind, name, content):
    """A good pair, but for one file of these bytes."""

    def plant(folder):
        pair()(folder)
        (folder / kind / "a.nii.gz").unlink()
        (folder / kind / name).write_bytes(content)

    return plant


def cut(folder):
    pair()(folder)
    path = folder / "i" / "a.nii.gz"
    path.write_bytes(path.read_bytes()[:-400])


def cut_inside(folder):
    pair()(folder)
    path = folder / "i" / "a.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-400]))


def picture(image, label, ending="png"):
    def plant(folder):
        for kind, array in (("i", image), ("l", label)):
            (folder / kind).mkdir(exist_ok=True)
            if isinstance(array, bytes):
                (folder / kind / f"a.{ending}").write_bytes(array)
            else:
                Image.fromarray(array).save(folder / kind / f"a.{ending}")

    return plant


def many_pages(folder):
    picture(IMAGE[..., 0], LABEL[..., 0], "tif")(folder)
    pages = [Image.fromarray(IMAGE[..., k]) for k in range(3)]
    pages[0].save(folder / "i" / "a.tif", save_all=True, append_images=pages[1:])


def no_mask(folder):
    pair()(folder)
    nifti(folder, "i", IMAGE, name="b.nii.gz")


def two_masks(folder):
    pair()(folder)
    for name in ("b_1.nii.gz", "b_2.nii.gz"):
        nifti(folder, "l", LABEL, name=name)
    nifti(folder, "i", IMAGE, name="b.nii.gz")


def two_endings(folder):
    pair()(folder)
    nifti(folder, "i", IMAGE, name="a.nii")


def series(change):
    def plant(folder):
        write_series(folder / "i", IMAGE.astype(np.int16), np.diag([-1.0, -1, 1, 1]))
        nifti(folder, "l", LABEL)
        change(folder)

    return plant


def lose_a_slice(folder):
    (folder / "i" / "001.dcm").unlink()


def cut_a_slice(folder):
    path = folder / "i" / "001.dcm"
    path.write_bytes(path.read_bytes()[:-200])


def cut_the_last_slice(folder):
    path = folder / "i" / "003.dcm"
    path.write_bytes(path.read_bytes()[:200])


def mix_two_series(folder):
    other = write_series(folder / "other", IMAGE.astype(np.int16), np.eye(4))
    for path in other.iterdir():
        shutil.move(path, folder / "i" / f"b{path.name}")


def one_place(folder):
    for path in (folder / "i").iterdir():
        header = pydicom.dcmread(path)
        header.ImagePositionPatient = [0, 0, 0]
        header.save_as(path)


def no_pixels(folder):
    path = folder / "i" / "000.dcm"
    for other in (folder / "i").iterdir():
        if other != path:
            other.unlink()
    header = pydicom.dcmread(path)
    del header.PixelData
    header.save_as(path)


def empty_header(folder):
    pair()(folder)
    (folder / "i" / "a.nii.gz").unlink()
    (folder / "i" / "a.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 40 30 4\nElementType = MET_SHORT\nElementDataFile = a.raw\n"
    )


def rgb_volume(folder):
    pair()(folder)
    (folder / "i" / "a.nii.gz").unlink()
    itk.imwrite(itk.image_from_array(np.zeros((4, 30, 40, 3), np.uint8), is_vector=True), str(folder / "i" / "a.nrrd"))


def listed(content):
    def plant(folder):
        (folder / "list.json").write_text(content if isinstance(content, str) else json.dumps(content))

    return plant


BROKEN = {  # what is wrong -> how it is planted, the command, its sentence
    "an empty file": (raw("i", "a.nii.gz", b""), MR, "a.nii.gz cannot be read as an image"),
    "a file of another kind": (raw("i", "a.nii.gz", b"<html>"), MR, "a.nii.gz cannot be read as an image"),
    "a download cut short": (cut, MR, "a.nii.gz cannot be read as an image"),
    "an image cut before it was packed": (cut_inside, MR, "a.nii.gz cannot be read as an image"),
    "a broken NRRD": (raw("i", "a.nrrd", b"NRRD0004\n"), MR, "a.nrrd cannot be read as an image"),
    "an MHD without its raw file": (empty_header, MR, "a.mhd cannot be read as an image"),
    "a mask cut short": (raw("l", "a.nii", b"\x5c\x01"), MR, "a.nii cannot be read as an image"),
    "an image with time": (pair(image=np.zeros((4, 4, 4, 3), np.float32)), MR, "must be one image or one volume"),
    "an image in colour": (rgb_volume, MR, "a.nrrd is in colour; use `data.py images`"),
    "NaN": (pair(image=np.where(LABEL == 1, np.nan, 1).astype(np.float32)), MR, "values that are NaN or infinite"),
    "infinity": (pair(image=np.where(LABEL == 1, np.inf, 1).astype(np.float32)), MR, "values that are NaN or infinite"),
    "complex numbers": (pair(image=IMAGE.astype(np.complex64)), MR, "must hold one number per voxel, its type is complex64"),
    "a mask of another size": (pair(label=LABEL[:-1]), MR, "they must be equal"),
    "a mask with channels": (pair(label=np.stack([LABEL] * 2, -1)), MR, "must be one image or one volume"),
    "a mask of probabilities": (pair(label=(LABEL * 0.3).astype(np.float32)), MR, "must hold whole numbers from 0"),
    "a negative label": (pair(label=LABEL.astype(np.int16) * -1), MR, "must hold whole numbers from 0"),
    "NaN in a mask": (pair(label=np.where(LABEL == 1, np.nan, 1).astype(np.float32)), MR, "must hold whole numbers from 0"),
    "an image taken for a mask": (pair(label=LABEL.astype(np.int32) * 1_000_000), MR, "holds the value 2000000; labels go up to 65535"),
    "an empty mask": (pair(label=LABEL * 0), MR, "has no object left after the label rules"),
    "all labels dropped": (pair(), (*MR, "--drop", "[1,2]"), "has no object left after the label rules"),
    "a label that is not there": (pair(), (*MR, "--keep", "liver"), "There is no label 'liver'; there are 1 1, 2 2"),
    "a label to split that is not there": (pair(), (*MR, "--split", "tumour"), "There is no label 'tumour'"),
    "no mask": (no_mask, MR, "b.nii.gz has no mask: none of 1 begins with b"),
    "two masks": (two_masks, MR, "b.nii.gz could have several masks: b_1.nii.gz, b_2.nii.gz; name one b"),
    "two images of one name": (two_endings, MR, "Two images are called a"),
    "an empty folder": (lambda f: (f / "i").mkdir(), MR, "Nothing is found in i"),
    "a slice that is missing": (series(lose_a_slice), CT, "The slices of i are 1 to 2 mm apart: some are missing"),
    "slices all at one place": (series(one_place), CT, "The slices of i are 0 to 0 mm apart"),
    "a slice that is cut": (series(cut_a_slice), CT, "001.dcm cannot be read as a DICOM image: it is cut short"),
    "a slice of which only the beginning is there": (series(cut_the_last_slice), CT, "003.dcm cannot be read as a DICOM image"),
    "two series in one folder": (series(mix_two_series), CT, "i holds 2 DICOM series"),
    "DICOM without pixels": (series(no_pixels), CT, "000.dcm cannot be read as a DICOM image"),
    "a picture that is text": (picture(b"hello", LABEL[..., 0]), PICTURES, "cannot be read as a picture; it is cut short"),
    "a picture cut short": (picture(b"\x89PNG\r\n\x1a\n", LABEL[..., 0]), PICTURES, "cannot be read as a picture"),
    "a mask in colour": (picture(IMAGE[..., 0], np.stack([LABEL[..., 0]] * 3, -1)), PICTURES, "is in colour (RGB): give --colors FILE.json"),
    "a picture and mask of two sizes": (picture(IMAGE[..., 0], LABEL[:-1, :, 0]), PICTURES, "has 1 pages of (40, 30)"),
    "more pages than masks": (many_pages, PICTURES, "has 3 pages of"),
    "a picture's empty mask": (picture(IMAGE[..., 0], LABEL[..., 0] * 0), PICTURES, "holds no object"),
    "a datalist cut short": (listed('{"training": ['), ("inspect", "list.json"), "The datalist list.json cannot be read"),
    "a datalist that is a list": (listed([]), ("split", "list.json"), "must be a JSON object with training, validation and test lists"),
    "an entry without an image": (listed({"training": [{"label": "a"}]}), ("inspect", "list.json"), "Entry 0 of training in list.json must be"),
    "an entry that split cannot use": (listed({"training": ["a"]}), ("split", "list.json"), "Entry 0 of training in list.json must be"),
    "run lengths that do not fill": (listed({"size": [2, 2], "counts": [1]}), ("convert", "list.json", "out/a.png"), "add up to 1, its size is 2 x 2"),
    "a dataset.json of nothing": (lambda f: (f / "dataset.json").write_text("[]"), ("decathlon", ".", "out"), "it is no JSON object"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_input_is_refused_in_a_sentence_and_leaves_nothing(fault, tmp_path, data):
    plant, words, sentence = BROKEN[fault]
    plant(tmp_path)
    code, _, err = data(*words)
    assert code == 1
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert sentence in err
    left = {p.name for p in (tmp_path / "out").glob("*")}
    assert left <= {"failures.json", "datalist.json"}, left
    if "datalist.json" in left:
        assert json.loads((tmp_path / "out" / "datalist.json").read_text())["training"] == []


def test_there_are_enough_of_them():
    assert len(BROKEN) >= 25
