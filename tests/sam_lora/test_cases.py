"""Images of any format on their own grid; broken ones refused with a sentence."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from sam_lora.cases import CaseError, read_case, stem, to_uint8, write_mask
from sam_lora.volumes import Volume
from tests.conftest import phantom

PERCENTILES = {"percentiles": [0.5, 99.5]}
AFFINE = np.array([[-0.8, 0, 0, 10], [0, 0.9, 0.1, -20], [0, -0.1, 2.0, 5], [0, 0, 0, 1.0]])


def write_npz(path, image, label, **more):
    np.savez_compressed(path, imgs=image, gts=label, **more)
    return {"image": str(path), "label": str(path)}


def write_nifti(folder, image, label, affine=AFFINE):
    paths = {}
    for key, array in (("image", image), ("label", label)):
        nibabel.save(nibabel.Nifti1Image(np.moveaxis(array, (0, 1, 2), (2, 1, 0)), affine), folder / f"{key}.nii.gz")
        paths[key] = str(folder / f"{key}.nii.gz")
    return paths


def raw_phantom():
    """An MR-like volume of int16 and its labels."""
    image, label = phantom()
    return image.astype(np.int16) * 7, label


def test_npz_and_nifti_of_one_case_are_one_case(tmp_path):
    raw, label = raw_phantom()
    image = to_uint8(raw, {"percentiles": [0.5, 99.5]})
    npz = read_case(write_npz(tmp_path / "case.npz", image, label, affine=AFFINE))
    nifti = read_case(write_nifti(tmp_path, raw, label))
    assert np.array_equal(npz.image, image)
    assert np.array_equal(npz.label, label)
    assert np.array_equal(nifti.image, npz.image)
    assert np.array_equal(nifti.label, npz.label)
    assert np.allclose(nifti.affine, npz.affine)
    assert np.allclose(nifti.spacing, npz.spacing)
    assert nifti.content == npz.content


def test_npz_of_slices_in_colour(tmp_path):
    image, label = phantom()
    colour = np.stack([image, 255 - image, image // 2], -1)
    case = read_case(write_npz(tmp_path / "c.npz", colour, label))
    assert np.array_equal(case.image, colour)
    assert case.spacing is None


@pytest.mark.parametrize(
    ("mode", "ending"), [("L", "png"), ("RGB", "png"), ("RGBA", "png"), ("L", "tif"), ("RGB", "jpg"), ("LA", "png")]
)
def test_pictures_are_volumes_of_one_slice(tmp_path, mode, ending):
    grey = phantom()[0][0]
    picture = Image.fromarray(np.stack([grey] * 3, -1)).convert(mode)
    picture.save(tmp_path / f"picture.{ending}")
    case = read_case({"image": str(tmp_path / f"picture.{ending}")})
    channels = (3,) if mode.startswith("RGB") else ()
    assert case.image.shape == (1, *grey.shape, *channels)
    assert case.spacing is None
    first = case.image[0, ..., 0] if channels else case.image[0]
    assert np.abs(first.astype(int) - grey).max() <= (0 if ending != "jpg" else 40)


def test_percentiles_of_what_is_not_zero_keep_zero_zero():
    volume = np.zeros((10, 10, 10), np.float32)
    volume[2:] = np.linspace(-5, 995, 800).reshape(8, 10, 10)
    result = to_uint8(volume, {"percentiles": [0.5, 99.5]})
    assert (result[:2] == 0).all()
    assert result[2, 0, 0] == 0
    assert result[-1, -1, -1] == 255
    assert result[6, 0, 0] == pytest.approx(127, abs=2)


def test_a_window_is_level_and_width():
    hounsfield = np.array([-1000, -160, 40, 240, 3000], np.int16)
    assert to_uint8(hounsfield, {"window": [40, 400]}).tolist() == [0, 0, 128, 255, 255]


def test_zero_is_no_background_where_there_are_negative_values():
    hounsfield = np.arange(-500, 500, dtype=np.int16)
    result = to_uint8(hounsfield, {"percentiles": [0, 100]})
    assert result[500] == pytest.approx(127, abs=1)


def test_eight_bit_volumes_are_raw_and_eight_bit_npz_are_not(tmp_path):
    image, label = phantom()
    nifti = read_case(write_nifti(tmp_path, image, label))
    assert np.array_equal(nifti.image, to_uint8(image, {"percentiles": [0.5, 99.5]}))
    assert np.array_equal(read_case(write_npz(tmp_path / "c.npz", image, label)).image, image)


@pytest.mark.parametrize(
    "wrong", [{}, {"window": [40]}, {"window": [40, -1]}, {"percentiles": [99, 1]}, {"window": [1, 2], "x": []}]
)
def test_a_wrong_intensity_setting_is_refused(wrong):
    with pytest.raises(CaseError, match='must be {"window": \\[level, width\\]} or {"percentiles"'):
        to_uint8(np.ones(3, np.float32), wrong)


def test_broken_npz_files_are_refused(tmp_path):
    image, label = phantom()
    np.savez(tmp_path / "no_imgs.npz", gts=label)
    np.savez(tmp_path / "no_gts.npz", imgs=image)
    np.savez(tmp_path / "flat.npz", imgs=image[0], gts=label[0])
    np.savez(tmp_path / "shapes.npz", imgs=image, gts=label[:, :-1])
    np.savez(tmp_path / "pickled.npz", imgs=np.array([{}]), gts=label)
    np.savez(tmp_path / "nan.npz", imgs=np.full(image.shape, np.nan), gts=label)
    np.savez(tmp_path / "halves.npz", imgs=image, gts=label / 2)
    np.savez(tmp_path / "whole.npz", imgs=image, gts=label)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:200])
    sentences = {
        "no_imgs": "no_imgs.npz must hold `imgs` and `gts`; it has no `imgs`",
        "no_gts": "no_gts.npz must hold `imgs` and `gts`; it has no `gts`",
        "flat": r"`imgs` of .*flat.npz must have shape \(N, H, W\) or \(N, H, W, 3\), got \(30, 40\)",
        "shapes": r"shapes.npz has shape \(40, 30, 4\), its label .*shapes.npz has \(40, 29, 4\); they must be equal",
        "pickled": "pickled.npz cannot be read as an npz file; it is cut short or holds pickled objects",
        "nan": "nan.npz: The image holds 4800 values that are NaN or infinite",
        "halves": "halves.npz must hold whole numbers from 0, each above 0 an object",
        "cut": "cut.npz cannot be read as an npz file",
        "missing": "There is no .*missing.npz",
    }
    for name, sentence in sentences.items():
        path = str(tmp_path / f"{name}.npz")
        with pytest.raises(CaseError, match=sentence):
            read_case({"image": path, "label": path})


def test_other_broken_images_are_refused(tmp_path):
    (tmp_path / "text.nii.gz").write_text("no image")
    with pytest.raises(CaseError, match="text.nii.gz cannot be read as an image"):
        read_case({"image": str(tmp_path / "text.nii.gz")})
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 7, 9), np.float32), np.eye(4)), tmp_path / "series.nii.gz")
    with pytest.raises(CaseError, match=r"series.nii.gz must be one image or one volume, it has shape \(5, 6, 7, 9\)"):
        read_case({"image": str(tmp_path / "series.nii.gz")})


def test_a_mask_lands_on_the_grid_of_its_image(tmp_path):
    image, label = phantom()
    case = read_case(write_nifti(tmp_path, image, label))
    path = write_mask(tmp_path / "out" / "mask", label, case.affine, tmp_path / "image.nii.gz")
    written, source = nibabel.load(path), nibabel.load(tmp_path / "label.nii.gz")
    assert np.array_equal(written.dataobj, source.dataobj)
    assert np.allclose(written.affine, source.affine)
    picture = write_mask(tmp_path / "mask", label[:1], np.eye(4), tmp_path / "image.png")
    assert np.array_equal(np.asarray(Image.open(picture)), label[0])


@pytest.mark.parametrize(("axis", "spacing"), [(0, [0.8, 2.0, 0.9]), (1, [0.9, 2.0, 0.8]), (2, [2.0, 0.9, 0.8])])
def test_slices_along_any_axis_are_those_that_serving_sees_and_masks_go_back_where_they_were(tmp_path, axis, spacing):
    image, label = phantom()
    affine = np.diag([0.8, 0.9, 2.0, 1.0])
    case = read_case({**write_nifti(tmp_path, image, label, affine), "axis": axis})
    volume = Volume(np.ascontiguousarray(to_uint8(np.moveaxis(image, (0, 1, 2), (2, 1, 0)), PERCENTILES)), axis)
    assert len(case.image) == len(volume)
    assert np.array_equal(case.image[3], volume.slice(3)[0].numpy())
    assert case.slice_spacing == pytest.approx(spacing)
    path = write_mask(tmp_path / "mask", case.label, case.affine, tmp_path / "image.nii.gz", case.axis)
    written, source = nibabel.load(path), nibabel.load(tmp_path / "label.nii.gz")
    assert np.array_equal(written.dataobj, source.dataobj)
    assert np.allclose(written.affine, source.affine)


@pytest.mark.parametrize("axis", [3, -1, "1", True, None])
def test_an_axis_that_there_is_not_is_refused(tmp_path, axis):
    image, label = phantom()
    entry = write_nifti(tmp_path, image, label)
    with pytest.raises(CaseError) as error:
        read_case({**entry, "axis": axis})
    assert str(error.value) == f"{entry['image']}: axis must be 0, 1 or 2, the axis of the slices, got {axis!r}."


def test_pictures_are_read_by_their_meaning_and_masks_by_their_values(tmp_path):
    indices = np.zeros((6, 8), np.uint8)
    indices[2:4, 3:5] = 1
    picture = Image.fromarray(indices, "P")
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.save(tmp_path / "p.png")
    case = read_case({"image": str(tmp_path / "p.png"), "label": str(tmp_path / "p.png")})
    assert case.image[0, 2, 3].tolist() == [200, 100, 50]
    assert np.array_equal(case.label[0], indices)
    Image.fromarray(indices.astype(bool)).save(tmp_path / "bits.png")
    case = read_case({"image": str(tmp_path / "bits.png"), "label": str(tmp_path / "bits.png")})
    assert np.array_equal(case.image[0], indices * 255)
    assert np.array_equal(case.label[0], indices)
    Image.new("CMYK", (4, 4), (255, 0, 0, 0)).save(tmp_path / "ink.tif")
    assert read_case({"image": str(tmp_path / "ink.tif")}).image[0, 0, 0].tolist() == [0, 255, 255]


def test_what_would_lose_a_part_is_refused(tmp_path):
    pages = [Image.new("L", (5, 5), v) for v in (1, 2)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(CaseError, match="has 2 pages; give one page per file"):
        read_case({"image": str(tmp_path / "pages.tif")})
    for volumes in (2, 3, 4):
        nibabel.save(nibabel.Nifti1Image(np.ones((5, 6, 7, volumes), np.float32), np.eye(4)), tmp_path / "s.nii.gz")
        with pytest.raises(CaseError, match="must be one image or one volume, it has shape"):
            read_case({"image": str(tmp_path / "s.nii.gz")})
    np.savez(tmp_path / "none.npz", imgs=np.zeros((0, 4, 4), np.uint8), gts=np.zeros((0, 4, 4), np.uint8))
    with pytest.raises(CaseError, match="`imgs` of .*none.npz is empty"):
        read_case({"image": str(tmp_path / "none.npz")})


def test_npz_geometry_is_checked(tmp_path):
    image, label = phantom()
    for more, sentence in (({"spacing": [1, 2]}, "`spacing` of .* must be three sizes in mm above 0"),
                           ({"spacing": [1, 2, 0]}, "`spacing` of .* must be three sizes in mm above 0"),
                           ({"affine": np.eye(3)}, "`affine` of .* must be an invertible 4 x 4 matrix"),
                           ({"affine": np.zeros((4, 4))}, "must be an invertible 4 x 4 matrix")):  # fmt: skip
        entry = write_npz(tmp_path / "c.npz", image, label, **more)
        with pytest.raises(CaseError, match=sentence):
            read_case(entry)


def test_a_flat_file_with_geometry_is_a_volume_of_one_slice(tmp_path):
    import itk

    flat = itk.image_from_array(np.arange(20, dtype=np.float32).reshape(4, 5))
    flat.SetSpacing([0.5, 0.7])
    itk.imwrite(flat, str(tmp_path / "flat.mha"))
    case = read_case({"image": str(tmp_path / "flat.mha")})
    assert case.image.shape == (1, 4, 5)
    assert case.spacing == pytest.approx((0.5, 0.7, 1.0))
    assert case.affine.shape == (4, 4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mask_on_a_mirrored_grid_is_refused_and_noise_in_a_header_is_not(tmp_path, axis):
    raw, label = raw_phantom()
    entry = write_nifti(tmp_path, raw, label)
    file = nibabel.load(entry["label"])
    array, mirror = np.asanyarray(file.dataobj), np.eye(4)
    mirror[axis, axis], mirror[axis, 3] = -1, array.shape[axis] - 1
    nibabel.save(nibabel.Nifti1Image(np.flip(array, axis), file.affine @ mirror), tmp_path / "flip.nii.gz")
    way = ("left-right", "back-front", "foot-head")[axis]
    sentence = f"flip.nii.gz and .*image.nii.gz have 40 x 30 x 4 voxels each, .*: the mask is flipped {way}"
    with pytest.raises(CaseError, match=sentence):
        read_case({**entry, "label": str(tmp_path / "flip.nii.gz")})
    nibabel.save(nibabel.Nifti1Image(array, file.affine + 1e-4 * np.eye(4)[:, [3, 0, 1, 2]]), tmp_path / "near.nii.gz")
    assert np.array_equal(read_case({**entry, "label": str(tmp_path / "near.nii.gz")}).label, label)


def test_an_npz_damaged_anywhere_is_a_sentence(tmp_path):
    image, label = phantom((2, 8, 8))
    np.savez_compressed(tmp_path / "whole.npz", imgs=image, gts=label)
    content = (tmp_path / "whole.npz").read_bytes()
    path, refused = tmp_path / "hurt.npz", 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        try:
            read_case({"image": str(path), "label": str(path)})
        except CaseError:
            refused += 1
    assert refused > len(content) / 2
    np.save(tmp_path / "array.npy", image)
    (tmp_path / "array.npy").rename(path)
    with pytest.raises(CaseError, match="hurt.npz cannot be read as an npz file"):
        read_case({"image": str(path)})


@pytest.mark.parametrize("affine", [np.diag([1.0, 0, 1, 1]), np.diag([1, np.nan, 1, 1])])
def test_an_affine_that_places_nothing_is_refused(tmp_path, affine):
    file = nibabel.Nifti1Image(np.ones((3, 4, 5), np.float32), np.eye(4))
    file.header.set_sform(affine, 1)
    file.header["qform_code"] = 0
    (tmp_path / "a.nii").write_bytes(nibabel.Nifti1Image(file.dataobj, None, file.header).to_bytes())
    with pytest.raises(CaseError, match="a.nii (does not say where its voxels lie|cannot be read)"):
        read_case({"image": str(tmp_path / "a.nii")})


def test_a_name_loses_its_ending_in_capitals_too(tmp_path):
    for name, expected in (("a.nii.gz", "a"), ("Ä 1.NII.GZ", "Ä 1"), ("b.c.nrrd", "b.c"), ("d.npz", "d")):
        assert stem(Path(name)) == expected
    (tmp_path / "1.2.840").mkdir()
    assert stem(tmp_path / "1.2.840") == "1.2.840"  # a folder with a series
