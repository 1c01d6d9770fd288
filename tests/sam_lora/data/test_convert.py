"""Conversion changes no value and no digit of the geometry."""

import gzip
import json

import itk
import nibabel
import numpy as np
import pytest
from PIL import Image

from sam_lora.cases import CaseError
from sam_lora.data.convert import convert, decode_run_lengths


def volume(path):
    image = itk.image_from_array(np.arange(60, dtype=np.int16).reshape(3, 4, 5) - 7)
    image.SetSpacing([0.7031251, 0.8123456, 2.5])
    image.SetOrigin([-123.4567, 10.25, 33.125])
    direction = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    image.SetDirection(itk.matrix_from_array(direction))
    itk.imwrite(image, str(path))
    return image


@pytest.mark.parametrize("ending", ["nrrd", "mha", "mhd", "nii"])
@pytest.mark.parametrize("target", ["out.nii", "out.nii.gz", "out.nrrd"])
def test_values_and_geometry_stay(tmp_path, ending, target):
    volume(tmp_path / f"a.{ending}")
    source = itk.imread(str(tmp_path / f"a.{ending}"))
    convert(tmp_path / f"a.{ending}", tmp_path / target)
    found = itk.imread(str(tmp_path / target))
    assert np.array_equal(itk.array_from_image(found), itk.array_from_image(source))
    if target.endswith("nrrd"):
        assert np.array_equal(affine_of(found), affine_of(source))
    else:  # to the last digit of single precision, in which NIfTI stores its geometry
        assert np.array_equal(nibabel.load(tmp_path / target).affine, affine_of(source).astype(np.float32))


def affine_of(image):
    """Voxel -> RAS mm of an ITK image."""
    affine = np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ affine


def test_compressing_keeps_every_byte(tmp_path):
    nibabel.save(
        nibabel.Nifti1Image(np.random.RandomState(0).rand(4, 5, 6).astype(np.float32), np.diag([1, 2, 3, 1.0])),
        tmp_path / "a.nii",
    )
    convert(tmp_path / "a.nii", tmp_path / "a.nii.gz")
    assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes()) == (tmp_path / "a.nii").read_bytes()


def test_pictures_and_pages(tmp_path):
    pages = [Image.fromarray(np.full((4, 5), v, np.uint8)) for v in (10, 20)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    written = convert(tmp_path / "a.tif", tmp_path / "a.png")
    assert [np.asarray(Image.open(p))[0, 0] for p in written] == [10, 20]
    pages[0].save(tmp_path / "b.jpg")
    convert(tmp_path / "b.jpg", tmp_path / "b.png")
    assert np.array_equal(Image.open(tmp_path / "b.png"), Image.open(tmp_path / "b.jpg"))


def test_run_lengths(tmp_path):
    mask = np.zeros((3, 4), np.uint8)
    mask[1:, 2] = 1
    (tmp_path / "a.json").write_text(json.dumps({"size": [3, 4], "counts": [7, 2, 3]}))
    assert np.array_equal(decode_run_lengths(tmp_path / "a.json"), mask)
    convert(tmp_path / "a.json", tmp_path / "a.png")
    assert np.array_equal(Image.open(tmp_path / "a.png"), mask)
    for content, sentence in (('{"size": [3, 4], "counts": [7]}', "add up to 7, its size is 3 x 4"), ("{", 'must be {"size"'),
                              ('{"size": [3, 4], "counts": [-1, 13]}', "add up to 12")):  # fmt: skip
        (tmp_path / "b.json").write_text(content)
        with pytest.raises(CaseError, match=sentence):
            decode_run_lengths(tmp_path / "b.json")


def test_nothing_is_written_over_unless_asked(tmp_path):
    volume(tmp_path / "a.nrrd")
    (tmp_path / "b.nii").write_bytes(b"mine")
    with pytest.raises(CaseError, match="b.nii is there already; --overwrite replaces it"):
        convert(tmp_path / "a.nrrd", tmp_path / "b.nii")
    assert (tmp_path / "b.nii").read_bytes() == b"mine"
    convert(tmp_path / "a.nrrd", tmp_path / "b.nii", overwrite=True)
    assert nibabel.load(tmp_path / "b.nii").shape == (5, 4, 3)


def test_what_cannot_be_converted_is_refused_and_leaves_nothing(tmp_path):
    (tmp_path / "a.nrrd").write_bytes(b"broken")
    with pytest.raises(CaseError, match="a.nrrd cannot be read as an image"):
        convert(tmp_path / "a.nrrd", tmp_path / "a.nii")
    with pytest.raises(CaseError, match="There is no way from a.nrrd to a.png"):
        convert(tmp_path / "a.nrrd", tmp_path / "a.png")
    with pytest.raises(CaseError, match="There is no .*b.nrrd"):
        convert(tmp_path / "b.nrrd", tmp_path / "b.nii")
    assert [p.name for p in tmp_path.iterdir()] == ["a.nrrd"]
