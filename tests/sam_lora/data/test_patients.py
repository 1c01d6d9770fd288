"""Whose case it is."""

import json

import numpy as np
import pytest

from sam_lora.cases import CaseError
from sam_lora.data.patients import Patients, dicom_patient, labels_shown, read_patients
from sam_lora.data.split import split_datalist
from sam_lora.datalist import list_cases
from tests.dicom import write_series


def test_the_datalist_then_dicom_then_the_name(tmp_path):
    write_series(tmp_path / "series", np.zeros((3, 4, 2), np.int16), np.eye(4))
    assert Patients().of({"image": "series"}, tmp_path) == "P1" == dicom_patient(tmp_path / "series" / "000.dcm")
    assert Patients().of({"image": "series", "patient": "p"}, tmp_path) == "p"
    assert Patients().of({"image": "x/abc.nii"}, tmp_path) == "abc"
    content = split_datalist({"training": [{"image": "series"}]}, tmp_path)
    assert content["training"][0]["patient"] == "P1"


def test_a_pattern():
    assert Patients(r"sub-(\d+)").of({"image": "x/sub-07_ses-2.nii"}) == "07"
    assert Patients(r"[a-z]+").of({"image": "abc12.nii", "patient": "p"}) == "abc"
    with pytest.raises(CaseError, match=r"The pattern 'sub' finds no patient in x/abc.nii"):
        Patients("sub").of({"image": "x/abc.nii"})
    with pytest.raises(CaseError, match=r"The pattern '\(' is no regular expression"):
        Patients("(").of({"image": "x/abc.nii"})


def test_a_pattern_sees_the_path_from_the_datalist_on_wherever_a_copy_lies(tmp_path):
    by_case = Patients(r"case(\d+)")
    for image in ("case7/image.nii", str(tmp_path / "case7" / "image.nii"), "/elsewhere/case7/image.nii"):
        assert by_case.of({"image": image}, tmp_path) == "7"
    assert Patients("[a-z]+").of({"image": str(tmp_path / "b" / "7.nii")}, tmp_path) == "b"
    copy = {"image": "train/b/7.nii", "copied_from": {"image": "b/7.nii"}}
    assert Patients("[a-z]+").of(copy, tmp_path) == "b"


@pytest.mark.parametrize("images", [["a.nii", "b.nii"], [f"case{n}/image.nii" for n in range(3)], ["a/x.nii", "b.nii"]])
def test_who_has_no_patient_is_the_same_one_for_a_split_and_for_training(tmp_path, images):
    (tmp_path / "d.json").write_text(json.dumps({"training": [{"image": image} for image in images]}))
    listed = list_cases(str(tmp_path), str(tmp_path / "d.json"))["training"]
    for content in (
        {"training": [{"image": i} for i in images]},
        {"training": [{"image": e["image"]} for e in listed]},
    ):
        split = split_datalist(content, tmp_path, ratios=(1, 0, 0))["training"]
        assert {e["patient"] for e in split} == {e["patient"] for e in listed}
        assert len({e["patient"] for e in split}) == len(images)


def test_a_table_names_images_with_or_without_folder_and_ending(tmp_path):
    (tmp_path / "t.csv").write_text("file,age,patient\nscans/a.nii.gz,50,p1\nb,51,p1\n", encoding="utf-8-sig")
    patients = Patients(None, read_patients(tmp_path / "t.csv", "patient"), "patient")
    assert [patients.of({"image": f"out/{name}.npz"}) for name in "ab"] == ["p1", "p1"]
    with pytest.raises(CaseError, match="The table has no patient for c.npz"):
        patients.of({"image": "out/c.npz"})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("", "t.csv has no column 'patient'; it has none"), ("a,b\n1,2", "has no column 'patient'; it has a, b"),
     ("a,patient\nx.nii,1\nx.nii,2", "gives x.nii two patients, 1 and 2")],
)  # fmt: skip
def test_broken_tables_are_refused(tmp_path, text, sentence):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(CaseError, match=sentence):
        read_patients(tmp_path / "t.csv", "patient")
    with pytest.raises(CaseError, match="nowhere.csv cannot be read as a CSV table"):
        read_patients(tmp_path / "nowhere.csv", "patient")


def test_labels_that_are_shown(tmp_path):
    for name, gts in (("a", [[[0, 1], [2, 2]]]), ("b", [[[0, 0], [3, 0]]])):
        np.savez(tmp_path / f"{name}.npz", imgs=np.zeros((1, 2, 2), np.uint8), gts=np.array(gts))
    entries = [{"image": f"{n}.npz", "label": f"{n}.npz"} for n in "ab"]
    assert labels_shown([*entries, {"image": "c.npz"}], tmp_path, 1) == [{"1", "2"}, {"3"}, frozenset()]
    (tmp_path / "b.npz").write_bytes(b"x")
    with pytest.raises(CaseError, match="b.npz cannot be read"):
        labels_shown(entries, tmp_path, 1)
