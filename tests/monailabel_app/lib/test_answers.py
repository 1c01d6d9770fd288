"""Masks in files: what other programs read is what was segmented, on the image's grid."""

import itk
import nibabel
import nrrd
import numpy as np
import pytest

from monailabel_app.lib.answers import largest_component, write_answer

OBLIQUE = np.array([[-0.7, 0.1, 0.2, 11.0], [0.1, 0.9, -0.3, -20.0], [0.0, 0.3, 2.5, 7.0], [0, 0, 0, 1]])


def mask():
    rng = np.random.RandomState(0)
    return np.asfortranarray((rng.rand(5, 7, 4) > 0.6).astype(np.uint8))


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_an_nrrd_is_what_two_other_readers_read(compress, dtype):
    path = write_answer(mask(), OBLIQUE, ".nrrd", dtype, compress)
    voxels, header = nrrd.read(str(path))
    assert (voxels == mask()).all()
    assert voxels.dtype == dtype
    lps = np.diag([-1, -1, 1, 1]) @ OBLIQUE
    assert np.allclose(header["space directions"].T, lps[:3, :3])
    image = itk.imread(str(path))
    assert (itk.array_from_image(image) == mask().T).all()
    place = image.TransformIndexToPhysicalPoint([3, 2, 1])
    assert np.allclose(place, (lps @ [3, 2, 1, 1])[:3], atol=0.25)  # itk makes the sheared axes orthogonal
    path.unlink()


def test_a_nifti_lies_where_the_image_lies():
    path = write_answer(mask(), OBLIQUE, ".nii.gz", "uint8", True)
    loaded = nibabel.load(path)
    assert (np.asanyarray(loaded.dataobj) == mask()).all()
    assert np.allclose(loaded.affine, OBLIQUE)
    path.unlink()


def test_what_no_client_can_read_is_refused():
    with pytest.raises(ValueError, match=r"result_extension must be one of \.nrrd, \.nii\.gz, \.nii, got '\.exe'\."):
        write_answer(mask(), OBLIQUE, ".exe", "uint8", True)
    with pytest.raises(ValueError, match=r"result_dtype must be one of uint8, uint16, int16, got 'float32'\."):
        write_answer(mask(), OBLIQUE, ".nrrd", "float32", True)
    with pytest.raises(ValueError, match=r"result_dtype uint8 cannot hold the label 300\."):
        write_answer(mask().astype(np.int32) * 300, OBLIQUE, ".nrrd", "uint8", True)


def test_the_largest_component_is_kept_where_it_was():
    label = np.zeros((6, 6, 3), np.uint8)
    label[0, 0, 0] = 1
    label[2:5, 2:5, 1:] = 1
    kept = largest_component(label)
    assert kept.sum() == 18
    assert not kept[0, 0, 0]
    assert (kept[2:5, 2:5, 1:] == 1).all()
    assert not largest_component(np.zeros((2, 2, 2), np.uint8)).any()
    one = np.zeros((2, 2, 2), np.uint8)
    one[1, 1, 1] = 1
    assert (largest_component(one) == one).all()
