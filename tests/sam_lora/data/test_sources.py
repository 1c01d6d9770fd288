"""Datalists of others."""

import json

import pytest

from sam_lora.cases import CaseError
from sam_lora.data.sources import fetch_decathlon, from_dataset_json, from_monailabel, write_datalist


def test_a_decathlon_folder(tmp_path):
    content = {
        "labels": {"0": "background", "1": "Anterior"},
        "training": [{"image": "./imagesTr/h_001.nii.gz", "label": "./labelsTr/h_001.nii.gz"}],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    datalist = from_dataset_json(tmp_path)
    assert datalist["training"] == [
        {"image": "imagesTr/h_001.nii.gz", "label": "labelsTr/h_001.nii.gz", "patient": "h_001"}
    ]
    assert datalist["labels"] == {"1": "Anterior"}


def test_an_nnunet_folder(tmp_path):
    (tmp_path / "labelsTr").mkdir()
    (tmp_path / "labelsTr" / "case7.nii.gz").touch()
    (tmp_path / "dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz", "numTraining": 1})
    )
    datalist = from_dataset_json(tmp_path)
    assert datalist["training"] == [
        {"image": "imagesTr/case7_0000.nii.gz", "label": "labelsTr/case7.nii.gz", "patient": "case7"}
    ]
    assert datalist["labels"] == {"1": "liver"}


def test_a_monai_label_datastore(tmp_path):
    final = {"ext": ".nii.gz", "info": {"label_info": [{"name": "spleen"}]}}
    objects = {"a": {"image": {"ext": ".nii.gz", "info": {}}, "labels": {"final": final, "original": final}},
               "b": {"image": {"ext": ".nii.gz", "info": {}}, "labels": {"original": final}}}  # fmt: skip
    (tmp_path / "datastore_v2.json").write_text(json.dumps({"objects": objects}))
    datalist = from_monailabel(tmp_path)
    assert datalist["training"] == [{"image": "a.nii.gz", "label": "labels/final/a.nii.gz", "patient": "a"}]
    assert datalist["labels"] == {"1": "spleen"}
    path = write_datalist(datalist, tmp_path / "elsewhere.json", tmp_path)
    assert json.loads(path.read_text())["training"][0]["image"] == "a.nii.gz"


def test_what_is_none_is_refused(tmp_path):
    with pytest.raises(CaseError, match="dataset.json cannot be read as a dataset of Decathlon or nnU-Net"):
        from_dataset_json(tmp_path)
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(CaseError, match="names no training case"):
        from_dataset_json(tmp_path)
    with pytest.raises(CaseError, match="datastore_v2.json cannot be read as a MONAI Label datastore"):
        from_monailabel(tmp_path)
    with pytest.raises(CaseError, match="task must be one of Task01_BrainTumour"):
        fetch_decathlon("Task99_Nothing", tmp_path)
