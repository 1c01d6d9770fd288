"""Datalists of others."""

import json
from pathlib import Path

import pytest

from sam_lora.cases import CaseError
from sam_lora.data.sources import fetch_decathlon, from_dataset_json, from_monailabel, write_datalist
from sam_lora.data.split import split_datalist
from sam_lora.data.transfer import transfer


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


def test_names_of_a_monai_label_datastore_have_their_values_and_no_others(tmp_path):
    def read(**info):
        objects = {
            name: {"image": {"ext": ".nii"}, "labels": {"final": {"ext": ".nii", "info": {"label_info": label_info}}}}
            for name, label_info in info.items()
        }
        (tmp_path / "datastore_v2.json").write_text(json.dumps({"objects": objects}))
        return from_monailabel(tmp_path)["labels"]

    liver, spleen = {"name": "liver", "idx": 1}, {"name": "spleen", "idx": 1}
    assert read(a=[liver], b=[{"name": "kidney", "idx": 7}, liver]) == {"1": "liver", "7": "kidney"}
    assert read(a=[{"name": "liver"}, {"name": "spleen"}]) == {"1": "liver", "2": "spleen"}
    with pytest.raises(CaseError, match="Value 1 is 'spleen' in labels/final/b.nii and 'liver' before"):
        read(a=[liver], b=[spleen])
    with pytest.raises(CaseError, match="label_info of labels/final/a.nii must be a list of"):
        read(a=[{"name": "liver", "idx": "one"}])


@pytest.mark.parametrize("out", ["task", "elsewhere"])
def test_a_datalist_made_again_keeps_its_split_and_its_copies(tmp_path, out):
    task, path = tmp_path / "task", tmp_path / out / "datalist.json"
    path.parent.mkdir()

    def again(count, labels=None):
        entries = []
        for n in range(count):
            entries.append({key: f"./{key}s/{n}.nii" for key in ("image", "label")})
            for name in entries[-1].values():
                (task / name).parent.mkdir(parents=True, exist_ok=True)
                (task / name).write_text(name)
        (task / "dataset.json").write_text(json.dumps({"training": entries, "labels": labels or {"1": "a"}}))
        write_datalist(from_dataset_json(task), path, task)
        return json.loads(path.read_text())

    by_path = split_datalist(again(10), path.parent, ratios=(0.5, 0, 0.5))
    for content in (by_path, transfer(by_path, path.parent, by_link=True)):
        path.write_text(json.dumps(content))
        assert again(10) == content
        grown = again(12)
        assert grown["test"] == content["test"]
        assert grown["training"][:5] == content["training"]
        assert [Path(e["image"]).name for e in grown["training"][5:]] == ["10.nii", "11.nii"]
    assert again(12, {"1": "b"})["labels"] == {"1": "b"}
    with pytest.raises(CaseError, match="Value 1 is 'c' in .*task and 'b' in .*datalist.json; give another OUT"):
        again(3, {"1": "c"})


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
