"""Prepared cases remember what they were made of, are made anew when that changes, and keep their datalist whole."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from sam_lora.cases import CaseError
from sam_lora.data.ct_mr import CaseJob, prepare, prepare_case
from sam_lora.data.labels import LabelRules
from sam_lora.data.pairs import Pair
from sam_lora.data.prepared import Prepared, add_to_datalist, origin_of, sections_of
from sam_lora.dicom_seg import write_seg
from tests.dicom import write_series

WINDOW = {"window": [40, 400]}


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "i", np.arange(120, dtype=np.int16).reshape(6, 5, 4))
    write(tmp_path, "l", np.repeat([0, 1, 2], 40).reshape(6, 5, 4).astype(np.uint8))
    return tmp_path


def write(folder, kind, array):
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1, 1, 2, 1])), folder / f"{kind}.nii.gz")


def run(folder, intensity=WINDOW, rules=LabelRules(), names=None, as_nifti=False):  # noqa: B008
    prepare(
        str(folder / "i.nii.gz"),
        str(folder / "l.nii.gz"),
        folder / "out",
        intensity,
        rules,
        names or {},
        "training",
        as_nifti,
        1,
    )
    (path,) = (p for p in (folder / "out").iterdir() if p.name in ("i.npz", "i.nii.gz"))
    return path


@pytest.mark.parametrize("as_nifti", [False, True])
def test_a_case_is_made_anew_when_source_or_settings_change_and_only_then(folder, as_nifti):
    def changed(**options):
        before = path.stat().st_mtime_ns
        assert run(folder, as_nifti=as_nifti, **options) == path
        return path.stat().st_mtime_ns != before

    path = run(folder, as_nifti=as_nifti)
    assert not changed()
    assert changed(rules=LabelRules(drop=("2",)))
    assert not changed(rules=LabelRules(drop=("2",)))
    assert changed(names={1: "a", 2: "b"})
    assert changed()
    assert changed(intensity={"window": [0, 50]}) != as_nifti  # NIfTI keeps raw intensities
    write(folder, "l", np.ones((6, 5, 4), np.uint8))
    assert changed(intensity={"window": [0, 50]})
    write(folder, "i", np.ones((6, 5, 4), np.int16))
    assert changed(intensity={"window": [0, 50]})
    path.write_bytes(b"cut short")
    assert changed(intensity={"window": [0, 50]})


def test_spacing_affine_names_and_digest_are_in_the_case(folder):
    path = run(folder, names={1: "a", 2: "b"}, rules=LabelRules(rename={"b": "c"}))
    origin = origin_of([folder / "i.nii.gz", folder / "l.nii.gz"], {})
    with np.load(path) as file:
        assert file["spacing"].tolist() == [1, 1, 2]
        assert np.array_equal(file["affine"], np.diag([-1, 1, 2, 1]))
        assert json.loads(str(file["labels"])) == {"1": "a", "2": "c"}
        assert str(file["source_digest"]) == origin.source_digest
        assert json.loads(str(file["settings"]))["intensity"] == WINDOW
    path.unlink()
    path = run(folder, names={1: "a", 2: "b"}, as_nifti=True)
    (comment,) = nibabel.load(path).header.extensions
    assert json.loads(comment.get_content())["source_digest"] == origin.source_digest


def test_names_in_the_datalist_are_those_after_the_rules(folder):
    run(folder, names={1: "left", 2: "right"}, rules=LabelRules(merge={"both": ["left", "right"]}))
    assert json.loads((folder / "out" / "datalist.json").read_text())["labels"] == {"1": "both"}


def case(name, names=None, patient="p"):
    return Prepared(*(2 * [Path(f"{name}.npz")]), patient, names or {})


def test_the_datalist_keeps_sections_and_patients_and_lists_nobody_twice(tmp_path):
    add_to_datalist(tmp_path, "training", [case("a"), case("b")])
    content = json.loads((tmp_path / "datalist.json").read_text())
    moved = {"image": "test/b.npz", "label": "test/b.npz", "patient": "mine", "split": True}
    (tmp_path / "datalist.json").write_text(
        json.dumps({**content, "training": content["training"][:1], "test": [moved]})
    )
    assert sections_of(tmp_path) == {"a": "training", "b": "test"}
    add_to_datalist(tmp_path, "training", [case("a"), case("b"), case("c")])
    content = json.loads((tmp_path / "datalist.json").read_text())
    assert [e["image"] for e in content["training"]] == ["a.npz", "c.npz"]
    assert content["test"] == [{"image": "b.npz", "label": "b.npz", "patient": "mine", "split": True}]


def test_one_value_has_one_name(tmp_path):
    add_to_datalist(tmp_path, "training", [case("a", {1: "spleen"})])
    with pytest.raises(CaseError, match="Value 1 is 'liver' in b.npz and 'spleen' in other cases"):
        add_to_datalist(tmp_path, "training", [case("b", {1: "liver"})])
    add_to_datalist(tmp_path, "training", [case("a", {1: "liver"})])  # renamed: nobody else is there
    assert json.loads((tmp_path / "datalist.json").read_text())["labels"] == {"1": "liver"}


def test_segments_get_the_values_that_names_give_them_and_dicom_its_patient(tmp_path):
    volume, label = np.zeros((6, 5, 3), np.int16), np.zeros((6, 5, 3), np.uint8)
    label[1:3, 1:3], label[4, 4] = 1, 2
    affine = np.diag([-1.0, -1, 1, 1])
    series = write_series(tmp_path / "series", volume, affine)
    write_seg(tmp_path / "seg.dcm", label, {1: "liver", 2: "spleen"}, series, affine)
    job = CaseJob(Pair("c", series, (tmp_path / "seg.dcm",)), tmp_path, WINDOW, LabelRules(), {1: "spleen", 7: "liver"})
    assert prepare_case(job) == Prepared(*job.files, "P1", {1: "spleen", 7: "liver"})
    with np.load(tmp_path / "c.npz") as file:
        assert np.array_equal(file["gts"].T, np.choose(label, [0, 7, 1]))
    job = CaseJob(job.pair, tmp_path, WINDOW, LabelRules(), {1: "spleen"})
    with pytest.raises(CaseError, match="seg.dcm has the segment 'liver', which names does not have: spleen"):
        prepare_case(job)
