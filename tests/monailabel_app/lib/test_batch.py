"""Drafts of many images."""

import logging

import numpy as np
import pytest

from monailabel_app.lib.batch import BatchError
from monailabel_app.main import SamLoraLabel
from sam_lora.cases import write_nifti
from tests.conftest import REPOSITORY, write_champion

BATCH = {"model": "sam_lora_auto", "images": "unlabeled", "save_label": True, "multi_gpu": False, "max_workers": 1}


@pytest.fixture
def app(tmp_path):
    for name in ("a", "c"):
        write_nifti(tmp_path / f"{name}.nii.gz", np.random.RandomState(0).rand(12, 11, 3).astype(np.float32), np.eye(4))
    (tmp_path / "b.nii.gz").write_bytes(b"no image")
    write_champion(tmp_path / ".sam_lora" / "adapters", "r", labels={1: "spleen"}, tokens=True)
    return SamLoraLabel(str(REPOSITORY / "monailabel_app"), str(tmp_path), {"labels": "spleen"})


def test_an_image_that_is_none_keeps_no_other_from_its_draft(app, caplog):
    with caplog.at_level(logging.INFO):
        done = app.batch_infer(dict(BATCH))
    objects = app.datastore().json()["objects"]
    assert {name: sorted(one["labels"]) for name, one in objects.items()} == {
        "a": ["original"],
        "b": [],
        "c": ["original"],
    }
    assert done.keys() == {"a", "b", "c"}
    assert "b.nii.gz" in done["b"]["failed"]
    assert caplog.messages[-1].startswith("1 of 3 images have no draft: b: ")
    assert caplog.messages[-1].endswith(done["b"]["failed"])


def test_a_batch_without_a_draft_has_failed(app):
    with pytest.raises(
        BatchError, match=r"3 of 3 images have no draft: a: label must be one of spleen, got 'liver'\.; b: "
    ):
        app.batch_infer({**BATCH, "label": "liver"})


def test_of_many_that_failed_some_are_named(app, monkeypatch):
    monkeypatch.setattr(app.datastore(), "get_unlabeled_images", lambda *_: [f"{n:02d}" for n in range(12)])
    with pytest.raises(
        BatchError, match=r"12 of 12 images .*; 09: There is no image '09'.*; and 2 more, see the log\."
    ):
        app.batch_infer(dict(BATCH))
