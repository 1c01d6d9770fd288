"""Datalists: from npz folders or JSON; leaks and broken ones refused."""

import json

import pytest

from sam_lora.cases import CaseError
from sam_lora.datalist import load_datalist


def test_npz_folders_are_a_datalist(dataset_dir):
    cases = load_datalist(str(dataset_dir))
    assert [len(cases[s]) for s in ("training", "validation", "test")] == [2, 0, 1]
    assert cases["labels"] == {1: "bar", 2: "block"}


def test_a_relative_folder_is_one_too(dataset_dir, monkeypatch):
    monkeypatch.chdir(dataset_dir.parent)
    assert load_datalist(dataset_dir.name) == load_datalist(str(dataset_dir))


def test_the_datalist_wins_and_its_paths_start_in_dataset_dir(dataset_dir, tmp_path):
    entry = {"image": "train/case0.npz", "label": "train/case0.npz", "patient": "p1"}
    (tmp_path / "list.json").write_text(json.dumps({"training": [entry], "labels": {"1": "femur"}}))
    cases = load_datalist(str(dataset_dir), str(tmp_path / "list.json"))
    assert cases["training"][0]["image"] == str(dataset_dir / "train" / "case0.npz")
    assert cases["labels"] == {1: "femur"}


def test_a_datalist_says_along_which_axis_its_slices_lie_and_an_entry_may_differ(dataset_dir, tmp_path):
    entries = [{"image": "train/case0.npz"}, {"image": "train/case1.npz", "axis": 0}]
    (tmp_path / "list.json").write_text(json.dumps({"training": entries, "axis": 1}))
    cases = load_datalist(str(dataset_dir), str(tmp_path / "list.json"))
    assert [entry["axis"] for entry in cases["training"]] == [1, 0]
    (tmp_path / "list.json").write_text(json.dumps({"training": entries[:1]}))
    assert "axis" not in load_datalist(str(dataset_dir), str(tmp_path / "list.json"))["training"][0]


def test_unusable_datalists_are_refused(dataset_dir, tmp_path):
    def refused(content, sentence):
        (tmp_path / "list.json").write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(CaseError, match=sentence):
            load_datalist(str(dataset_dir), str(tmp_path / "list.json"))

    refused("{", "list.json cannot be read")
    refused([], "must be a JSON object with training, validation and test lists")
    refused({"training": []}, "There is no case in .*list.json")
    refused({"training": ["a.nii"]}, "Entry 0 of training in .*list.json must be")
    both = [{"image": "a.nii", "patient": "p1"}]
    refused({"training": both, "test": both}, "Patient p1 is in training and in test; it belongs to one")
    with pytest.raises(CaseError, match="dataset_dir must be a folder with the cases, there is no 'nowhere'"):
        load_datalist("nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaseError, match="There is no case in .*empty: expected training or test entries"):
        load_datalist(str(tmp_path / "empty"))


def test_a_file_is_on_one_side_whatever_its_patients_are_called(tmp_path):
    (tmp_path / "list.json").write_text(
        json.dumps({"validation": [{"image": "a.nii", "patient": "p1"}], "test": [{"image": "./a.nii"}]})
    )
    with pytest.raises(CaseError, match="File .*a.nii is in validation and in test; it belongs to one"):
        load_datalist(str(tmp_path), str(tmp_path / "list.json"))


def test_cases_of_one_file_name_keep_names_of_their_own(tmp_path):
    for folder in ("p1", "p2"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "image.nii.gz").touch()
    entries = [{"image": f"{folder}/image.nii.gz"} for folder in ("p1", "p2")]
    (tmp_path / "list.json").write_text(json.dumps({"training": [{"image": "other.nii"}], "test": entries}))
    cases = load_datalist(str(tmp_path), str(tmp_path / "list.json"))
    assert [e["name"] for e in cases["test"]] == ["p1_image", "p2_image"] == [e["patient"] for e in cases["test"]]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["a", "a"], "2 entries of the datalist have the name 'a': each needs one of its own"),
        (["a", "../b"], "name must be text that a file can be called, an entry of the datalist has '../b'"),
        ([".."], "name must be text that a file can be called, an entry of the datalist has '..'"),
        ([7], "name must be text that a file can be called, an entry of the datalist has 7"),
    ],
)
def test_names_are_files_of_their_own(dataset_dir, tmp_path, names, sentence):
    entries = [{"image": f"train/case{n}.npz", "name": name} for n, name in enumerate(names)]
    (tmp_path / "list.json").write_text(json.dumps({"training": entries}))
    with pytest.raises(CaseError, match=sentence):
        load_datalist(str(dataset_dir), str(tmp_path / "list.json"))


def test_labels_are_above_zero_and_have_one_name(dataset_dir, tmp_path):
    import numpy as np

    entry = {"image": "train/case0.npz"}
    (tmp_path / "list.json").write_text(json.dumps({"training": [entry], "labels": {"0": "background", "1": "bar"}}))
    assert load_datalist(str(dataset_dir), str(tmp_path / "list.json"))["labels"] == {1: "bar"}
    for labels in ('{"1": "rod"}', "bar", '["a"]', '{"a": "b"}'):
        np.savez(
            dataset_dir / "train" / "case9.npz",
            imgs=np.zeros((1, 4, 4), np.uint8),
            gts=np.ones((1, 4, 4)),
            labels=labels,
        )
        sentence = "Value 1 is 'rod' in .* and 'bar' in another case" if "rod" in labels else "must map values to names"
        with pytest.raises(CaseError, match=sentence):
            load_datalist(str(dataset_dir))


def test_without_a_folder_there_is_no_case():
    """MONAI Label hands its cases to the datasets of the configs."""
    assert load_datalist("", None) == {"training": [], "validation": [], "test": [], "labels": {}}
