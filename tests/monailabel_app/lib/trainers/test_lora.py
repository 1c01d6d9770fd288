"""What a training is made of, before it starts: settings, cases, and the size that fits the images."""

import json

import numpy as np
import pytest

from monailabel_app.lib.adapters import Adapters
from monailabel_app.lib.datastores.local import StudiesFolder
from monailabel_app.lib.strategies.unlabelled import First, Random
from monailabel_app.lib.trainers.lora import LoraTraining
from sam_lora.cache import TensorCache
from sam_lora.cases import write_nifti


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "studies"
    folder.mkdir()
    for n in range(3):
        write_nifti(folder / f"p{n}.nii.gz", np.random.RandomState(n).rand(35, 50, 3).astype(np.float32), np.eye(4))
    return StudiesFolder(str(folder))


@pytest.fixture
def training(tmp_path):
    adapters = Adapters(tmp_path / "adapters", "vit_t", "cpu", TensorCache(1))
    return LoraTraining(adapters, lambda: {1: "spleen", 2: "liver"}, tmp_path / "training")


def save(store, tmp_path, image, info=None):
    label = np.zeros((35, 50, 3), np.uint8)
    label[5:9, 5:9, 1] = 1
    store.save_label(image, str(write_nifti(tmp_path / "drawn.nii.gz", label, np.eye(4))), "final", info or {})


def test_settings_are_read_before_anything_starts(training, store, tmp_path):
    save(store, tmp_path, "p0")
    assert training.check({"preset": ["accurate"], "minutes": "2", "image_size": "", "axis": "1"}, store) == {
        "preset": "accurate", "minutes": 2.0, "image_size": 0, "axis": 1,
    }  # fmt: skip
    for request, sentence in (
        ({"preset": "x"}, "preset must be one of fast, accurate, decoder, got 'x'"),
        ({"minutes": 0}, "minutes must be a number from 0.05 to 1440, got 0"),
        ({"minutes": True}, "minutes must be a number"),
        ({"image_size": 100}, "image_size must be a multiple of 16, or 0 to fit the images, got 100"),
    ):
        with pytest.raises(ValueError, match=sentence):
            training.check(request, store)


def test_without_a_label_nothing_starts(training, store, tmp_path):
    with pytest.raises(ValueError, match="There is no label to train on: save at least one"):
        training.check({}, store)
    assert training.stats() == {}


def test_who_is_held_out_is_validated_on_and_labels_get_their_classes_values(training, store, tmp_path, monkeypatch):
    for image in ("p2", "p0", "p1"):
        save(store, tmp_path, image, {"label_info": [{"name": "liver", "idx": 7}]})
    given = {}

    def run(folder, settings, cases):
        given.update(json.loads((folder / "datalist.json").read_text()), size=training._fitting_size(cases, 2))
        (folder / "models").mkdir()
        (folder / "models" / "adapter_best.safetensors").write_bytes(b"trained")

    monkeypatch.setattr(training, "_run", run)
    done = training({"minutes": 1}, store)
    assert [entry["name"] for entry in given["training"]] == ["p1", "p2"]
    assert [entry["name"] for entry in given["validation"]] == ["p0"]  # the second that was labelled
    assert given["labels"] == {"1": "spleen", "2": "liver"}
    assert given["size"] == 112
    import nibabel

    stored = nibabel.load(given["training"][0]["label"])
    assert set(np.unique(np.asanyarray(stored.dataobj))) == {0, 2}
    assert (training.adapters.folder / f"{done['adapter']}.safetensors").read_bytes() == b"trained"
    assert training.stats()["training_cases"] == 2


def test_the_next_image_is_one_without_a_label(store, tmp_path):
    assert First()({}, store) == {"id": "p0"}
    save(store, tmp_path, "p0")
    assert First()({}, store) == {"id": "p1"}
    assert {Random()({}, store)["id"] for _ in range(40)} == {"p1", "p2"}
    for image in ("p1", "p2"):
        save(store, tmp_path, image)
    assert First()({}, store) is None
    assert Random()({}, store) is None
