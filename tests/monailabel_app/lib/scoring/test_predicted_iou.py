"""How sure the network is of what nobody has labelled: the mean over the slices where something is found."""

import json

import numpy as np
import pytest
from monailabel_app.lib.scoring.predicted_iou import PredictedIoU

from monailabel_app.lib.datastores.local import StudiesFolder
from monailabel_app.lib.infers.automatic import Automatic
from monailabel_app.lib.service import Service
from sam_lora.cases import write_nifti
from sam_lora.prompts import PromptError
from tests.conftest import write_random_adapter

NAMES = {1: "spleen", 2: "liver"}


@pytest.fixture
def store(tmp_path):
    """Three images, of which a human has labelled the second, and a model the third."""
    folder = tmp_path / "studies"
    folder.mkdir()
    for name in ("a", "b", "c"):
        write_nifti(folder / f"{name}.nii.gz", np.random.RandomState(0).rand(12, 10, 3).astype(np.float32), np.eye(4))
    store = StudiesFolder(str(folder))
    label = write_nifti(tmp_path / "label.nii.gz", np.ones((12, 10, 3), np.uint8), np.eye(4))
    store.save_label("b", str(label), "final", {})
    store.save_label("c", str(label), "original", {"model": "sam_lora_auto"})
    return store


def answering(folder, confidence):
    """An automatic segmentation that is this sure of each image in turn."""
    answers = iter(confidence)

    def automatic(request):
        path = folder / "answer.nrrd"
        path.touch()
        return str(path), {"confidence": next(answers), "adapter": "x", "adapter_digest": "123"}

    return automatic


def test_the_mean_over_all_slices_where_a_label_was_found(store, tmp_path):
    confidence = [{"spleen": {"0": 0.5, "2": 1.0}, "liver": {"1": 0.9}}, {"spleen": {}, "liver": {}}]
    scores = PredictedIoU(answering(tmp_path, confidence), tmp_path / "scores.json")({}, store)
    assert scores == {
        "a": {"predicted_iou": 0.8, "adapter": "x", "adapter_digest": "123"},
        "c": {"predicted_iou": 0.0, "adapter": "x", "adapter_digest": "123"},  # a model's label is nobody's
    }
    assert json.loads((tmp_path / "scores.json").read_text()) == scores
    assert not (tmp_path / "answer.nrrd").exists()


def test_scores_are_what_the_network_says_of_its_masks(store, tmp_path):
    folder = tmp_path / "adapters"
    folder.mkdir()
    write_random_adapter(folder / "r.safetensors", labels=NAMES, tokens=True)
    automatic = Automatic(Service(folder), lambda: NAMES)
    before = store.json()
    scores = PredictedIoU(automatic, tmp_path / "scores.json")({}, store)
    assert set(scores) == {"a", "c"}
    _, said = automatic({"image": store.get_image_uri("a")})
    sure = [value for slices in said["confidence"].values() for value in slices.values()]
    assert 0 < scores["a"]["predicted_iou"] <= 1
    assert scores["a"]["predicted_iou"] == pytest.approx(np.mean(sure), abs=1e-4)
    assert (scores["a"]["adapter"], scores["a"]["adapter_digest"]) == (said["adapter"], said["adapter_digest"])
    assert store.json() == before


def test_nothing_learned_is_said_and_earlier_scores_stay(store, tmp_path):
    (tmp_path / "adapters").mkdir()
    (tmp_path / "scores.json").write_text("{}")
    scoring = PredictedIoU(Automatic(Service(tmp_path / "adapters"), lambda: NAMES), tmp_path / "scores.json")
    with pytest.raises(PromptError, match="has not learned to find a label without a prompt yet"):
        scoring({}, store)
    assert (tmp_path / "scores.json").read_text() == "{}"
