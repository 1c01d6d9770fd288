"""Volumes of any format into cases: golden values on real files, and round trips that notice every flip."""

import json

import itk
import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1

from sam_lora.cases import CaseError, read_array, read_case, write_mask
from sam_lora.data.convert import convert
from sam_lora.data.ct_mr import CaseJob, prepare, prepare_case, window_of
from sam_lora.data.labels import LabelRules
from sam_lora.data.pairs import Pair
from sam_lora.dicom_seg import is_seg, read_seg, write_seg
from tests.dicom import write_series

angle = np.deg2rad(20)
turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
GRIDS = {  # spacing and directions in RAS; the slice axis follows the right hand, as DICOM series are read
    "RAS": np.diag([1.0, 1.0, 1.0]),
    "LPS": np.diag([-1.0, -1.0, 1.0]),
    "oblique": turn @ np.array([[1, 0, 0], [0, np.cos(0.3), -np.sin(0.3)], [0, np.sin(0.3), np.cos(0.3)]]),
    "anisotropic": np.diag([-0.5, -0.8, 3.0]),
}


def grid(name):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = GRIDS[name], [12.5, -30.0, 41.0]
    return affine


def phantom_volume():
    """HU (I, J, K) = (9, 7, 5) and labels; no axis is symmetric."""
    volume = np.full((9, 7, 5), -900, np.int16)
    volume[1:4, 2:6, 1:3] = 60
    volume[6:8, 1:3, 2:5] = 300
    label = np.zeros(volume.shape, np.uint8)
    label[1:4, 2:6, 1:3], label[6:8, 1:3, 2:5] = 1, 2
    return volume, label


@pytest.mark.parametrize("name", GRIDS)
def test_dicom_to_nifti_to_npz_to_mask_lands_on_the_source_grid(name, tmp_path):
    volume, label = phantom_volume()
    series = write_series(tmp_path / "dicom", volume, grid(name))
    convert(series, tmp_path / "case.nii.gz")
    converted = nibabel.load(tmp_path / "case.nii.gz")
    assert np.array_equal(converted.dataobj, volume)
    assert np.allclose(converted.affine, grid(name), atol=1e-4)
    nibabel.save(nibabel.Nifti1Image(label, converted.affine), tmp_path / "label.nii.gz")
    for image in (series, tmp_path / "case.nii.gz"):
        out = tmp_path / f"out_{image.name}"
        prepare(str(image), str(tmp_path / "label.nii.gz"), out, {"window": [40, 400]}, LabelRules(), {1: "a", 2: "b"}, "training", False, 1)  # fmt: skip
        (entry,) = json.loads((out / "datalist.json").read_text())["training"]
        case = read_case({key: str(out / entry[key]) for key in ("image", "label")})
        mask = nibabel.load(write_mask(out / "mask", case.label, case.affine, tmp_path / "x.nii"))
        assert np.array_equal(mask.dataobj, label)
        assert np.allclose(mask.affine, grid(name), atol=1e-4)
        assert case.image[1, 2, 1] == round((60 + 160) / 400 * 255)
        assert np.allclose(case.spacing, np.linalg.norm(GRIDS[name], axis=0), atol=1e-4)


@pytest.mark.parametrize("name", GRIDS)
def test_a_dicom_seg_written_and_read_back_is_identical(name, tmp_path):
    volume, label = phantom_volume()
    series = write_series(tmp_path / "dicom", volume, grid(name))
    array, meta = read_array(series, "imgs")
    assert np.array_equal(array, volume)
    write_seg(tmp_path / "seg.dcm", label, {1: "kidney", 2: "bone"}, series, meta["affine"])
    assert is_seg(tmp_path / "seg.dcm")
    assert not is_seg(series / "000.dcm")
    found, names = read_seg(tmp_path / "seg.dcm", series, meta["affine"])
    assert np.array_equal(found, label)
    assert names == {1: "kidney", 2: "bone"}
    job = CaseJob(Pair("c", series, (tmp_path / "seg.dcm",)), tmp_path, {"window": [40, 400]}, LabelRules())
    prepare_case(job)
    with np.load(tmp_path / "c.npz") as file:
        assert np.array_equal(file["gts"].T, label)
        assert json.loads(str(file["labels"])) == {"1": "kidney", "2": "bone"}


def test_a_seg_of_another_series_is_refused(tmp_path):
    volume, label = phantom_volume()
    one, other = (write_series(tmp_path / n, volume, grid("LPS")) for n in ("one", "other"))
    write_seg(tmp_path / "seg.dcm", label, {}, one, grid("LPS"))
    with pytest.raises(CaseError, match="does not fit the series in .*other"):
        read_seg(tmp_path / "seg.dcm", other, grid("LPS"))


def test_golden_values_of_a_real_ct_and_its_dicom(data_dir, tmp_path):
    case = data_dir / "ct-totalsegmentator" / "case03_dicom_ct"
    from_dicom, meta = read_array(case / "dicom", "imgs")
    nifti = nibabel.load(case / "image.nii.gz")
    assert np.allclose(meta["affine"], nifti.affine, atol=1e-4)
    assert np.array_equal(from_dicom, np.asanyarray(nifti.dataobj))
    prepare(
        str(case / "dicom"),
        str(case / "label.nii.gz"),
        tmp_path,
        window_of("CT", "soft_tissue"),
        LabelRules(),
        {},
        "test",
        False,
        1,
    )
    with np.load(tmp_path / "dicom.npz") as file:
        expected = np.clip((np.asanyarray(nifti.dataobj).astype(float) + 160) / 400, 0, 1) * 255
        assert np.abs(file["imgs"].T - expected).max() <= 0.5 + 1e-4
        assert np.array_equal(file["gts"].T, np.asanyarray(nibabel.load(case / "label.nii.gz").dataobj))


def test_golden_values_of_a_real_mr(data_dir, tmp_path):
    folder = data_dir / "mr-hippocampus-msd"
    name = sorted(p.name for p in (folder / "images").glob("*.nii.gz"))[0]
    prepare(
        str(folder / "images" / name),
        str(folder / "labels" / name),
        tmp_path,
        window_of("MR", None),
        LabelRules(),
        {},
        "training",
        False,
        1,
    )
    raw = np.asanyarray(nibabel.load(folder / "images" / name).dataobj).astype(float)
    low, high = np.percentile(raw[raw != 0], [0.5, 99.5])
    with np.load(next(tmp_path.glob("*.npz"))) as file:
        expected = np.clip((raw - low) / (high - low), 0, 1) * 255
        expected[raw == 0] = 0
        assert np.abs(file["imgs"].T - expected).max() <= 0.5 + 1e-3
        assert np.allclose(file["spacing"], 1, atol=1e-4)


@pytest.mark.parametrize("name", ["JPEG", "JPEG2000"])
def test_compressed_dicom_is_read_to_the_last_value(name, tmp_path):
    volume, _ = phantom_volume()
    affine = grid("oblique")
    (tmp_path / name).mkdir()
    for path in write_series(tmp_path / "plain", volume, affine).iterdir():
        image = itk.imread(str(path), itk.SS)
        writer = itk.GDCMImageIO.New(KeepOriginalUID=True)
        writer.SetCompressionType(getattr(itk.GDCMImageIOEnums, f"Compression_{name}"))
        itk.imwrite(image, str(tmp_path / name / path.name), imageio=writer, compression=True)
    syntax = pydicom.dcmread(tmp_path / name / "000.dcm").file_meta.TransferSyntaxUID
    assert syntax in {"JPEG": (JPEGLosslessSV1,), "JPEG2000": (JPEG2000Lossless,)}[name]
    array, meta = read_array(tmp_path / name, "imgs")
    assert np.array_equal(array, volume)
    assert np.allclose(meta["affine"], affine, atol=1e-4)


def test_what_is_done_is_skipped_and_one_broken_case_stops_no_other(tmp_path):
    volume, label = phantom_volume()
    for folder, array in (("i", volume), ("l", label)):
        (tmp_path / folder).mkdir()
        for name in ("a", "b", "c"):
            nibabel.save(nibabel.Nifti1Image(array, grid("LPS")), tmp_path / folder / f"{name}.nii.gz")
    (tmp_path / "i" / "b.nii.gz").write_bytes(b"broken")
    arguments = (
        str(tmp_path / "i"),
        str(tmp_path / "l"),
        tmp_path / "out",
        {"window": [40, 400]},
        LabelRules(),
        {},
        "training",
        False,
    )
    with pytest.raises(
        ValueError, match="1 of 3 cases failed, listed in .*failures.json; the first: b: .*cannot be read as an image"
    ):
        prepare(*arguments, 1)
    assert [e["patient"] for e in json.loads((tmp_path / "out" / "datalist.json").read_text())["training"]] == [
        "a",
        "c",
    ]
    before = (tmp_path / "out" / "a.npz").stat().st_mtime_ns
    nibabel.save(nibabel.Nifti1Image(volume, grid("LPS")), tmp_path / "i" / "b.nii.gz")
    prepare(*arguments, 1)
    assert (tmp_path / "out" / "a.npz").stat().st_mtime_ns == before
    assert not (tmp_path / "out" / "failures.json").exists()
    assert len(json.loads((tmp_path / "out" / "datalist.json").read_text())["training"]) == 3


def test_nifti_cases_keep_raw_intensities(tmp_path):
    volume, label = phantom_volume()
    nibabel.save(nibabel.Nifti1Image(volume, grid("oblique")), tmp_path / "i.nii")
    nibabel.save(nibabel.Nifti1Image(label, grid("oblique")), tmp_path / "l.nii")
    prepare(
        str(tmp_path / "i.nii"),
        str(tmp_path / "l.nii"),
        tmp_path / "out",
        {"window": [40, 400]},
        LabelRules(),
        {},
        "test",
        True,
        1,
    )
    assert np.array_equal(nibabel.load(tmp_path / "out" / "i.nii.gz").dataobj, volume)
    assert np.array_equal(nibabel.load(tmp_path / "out" / "i_label.nii.gz").dataobj, label)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(("PET", None), "modality must be CT or MR"), (("CT", None), "CT needs a window"), (("CT", "heart"), "window must be LEVEL,WIDTH or one of"),
     (("CT", (40, 0)), "window must have a finite level and a width above 0, got 40,0"), (("CT", "nan,400"), "must have a finite level"), (("CT", "40,inf"), "must have a finite"), (("CT", "40"), "window must be LEVEL,WIDTH")],
)  # fmt: skip
def test_impossible_windows_are_refused(arguments, sentence):
    with pytest.raises(CaseError, match=sentence):
        window_of(*arguments)


def test_windows_by_name_and_number():
    assert window_of("CT", "lung") == {"window": [-600, 1500]}
    assert window_of("CT", "40,400") == {"window": [40, 400]} == window_of("CT", (40, 400))


def prepared_label(image, mask, out):
    prepare(str(image), str(mask), out, {"window": [40, 400]}, LabelRules(), {}, "training", False, 1)
    with np.load(next(out.glob("*.npz"))) as file:
        return file["gts"].T


@pytest.mark.parametrize("axes", ["LAS", "RPS", "RAI", "ASR", "SPL"])
def test_a_mask_stored_along_other_axes_is_turned_onto_its_image(axes, tmp_path):
    volume, label = phantom_volume()
    nibabel.save(nibabel.Nifti1Image(volume, grid("oblique")), tmp_path / "i.nii")
    mask = nibabel.Nifti1Image(label, grid("oblique"))
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(mask.affine), nibabel.orientations.axcodes2ornt(axes)
    )
    nibabel.save(mask.as_reoriented(turn), tmp_path / "l.nii")
    assert np.array_equal(prepared_label(tmp_path / "i.nii", tmp_path / "l.nii", tmp_path / "out"), label)


def test_a_mask_that_lies_elsewhere_is_refused(tmp_path):
    volume, label = phantom_volume()
    nibabel.save(nibabel.Nifti1Image(volume, grid("LPS")), tmp_path / "i.nii")
    nibabel.save(nibabel.Nifti1Image(label, grid("LPS") + 3 * np.eye(4)[:, [3, 0, 1, 2]]), tmp_path / "l.nii")
    with pytest.raises(ValueError, match="l.nii and .*i.nii have 9 x 7 x 5 voxels each, and their affines differ"):
        prepared_label(tmp_path / "i.nii", tmp_path / "l.nii", tmp_path / "out")


def test_a_real_mask_in_canonical_order_lands_on_its_dicom_series(data_dir, tmp_path):
    case = data_dir / "ct-totalsegmentator" / "case03_dicom_ct"
    label = nibabel.load(case / "label.nii.gz")
    nibabel.save(nibabel.as_closest_canonical(label), tmp_path / "canonical.nii.gz")
    found = prepared_label(case / "dicom", tmp_path / "canonical.nii.gz", tmp_path / "out")
    assert np.array_equal(found, np.asanyarray(label.dataobj))


def seg_of(tmp_path):
    """A series, its SEG as a dataset to change, and where that goes."""
    volume, label = phantom_volume()
    series = write_series(tmp_path / "series", volume, grid("LPS"))
    write_seg(tmp_path / "seg.dcm", label, {1: "a", 2: "b"}, series, grid("LPS"))
    return series, pydicom.dcmread(tmp_path / "seg.dcm"), tmp_path / "seg.dcm"


def half_the_size(seg):
    seg.Rows, seg.Columns = seg.Rows // 2, seg.Columns // 2


def turn_rows(seg):
    plane = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    plane.ImageOrientationPatient = [-v for v in plane.ImageOrientationPatient[:3]] + plane.ImageOrientationPatient[3:]


def double_pixels(seg):
    seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [2, 2]


@pytest.mark.parametrize(
    ("change", "what"),
    [(half_the_size, "rows and columns"), (turn_rows, "ImageOrientationPatient"), (double_pixels, "PixelSpacing")],
)
def test_a_seg_on_another_grid_than_its_series_is_refused(change, what, tmp_path):
    series, seg, path = seg_of(tmp_path)
    change(seg)
    seg.save_as(path)
    with pytest.raises(ValueError, match=f"seg.dcm does not lie on the grid of .*series: {what} of the SEG are"):
        prepared_label(series, path, tmp_path / "out")


def test_a_seg_needs_the_folder_of_its_series(tmp_path):
    _, _, path = seg_of(tmp_path)
    nibabel.save(nibabel.Nifti1Image(phantom_volume()[0], grid("LPS")), tmp_path / "i.nii")
    with pytest.raises(
        ValueError, match="seg.dcm is a DICOM SEG: it needs the folder of the series it was made for; .*i.nii is none"
    ):
        prepared_label(tmp_path / "i.nii", path, tmp_path / "out")


def test_ct_by_its_header_needs_a_window(tmp_path):
    series, _, path = seg_of(tmp_path)
    for image in (series, series / "000.dcm"):
        with pytest.raises(CaseError, match="is CT, as its DICOM header says: give --modality CT and a --window"):
            prepare_case(CaseJob(Pair("c", image, (path,)), tmp_path, window_of("MR", None), LabelRules()))


def test_a_slice_without_an_ending_that_is_cut_short_is_missed(tmp_path):
    series = write_series(tmp_path / "series", phantom_volume()[0], grid("LPS"))
    for path in sorted(series.iterdir()):
        path.rename(path.with_suffix(""))
    (series / "README").write_text("no slice")
    assert read_array(series, "imgs")[0].shape == (9, 7, 5)
    (series / "004").write_bytes((series / "004").read_bytes()[:400])
    with pytest.raises(CaseError, match="004 cannot be read as a DICOM image: it is cut short"):
        read_array(series, "imgs")
