"""3D Slicer's own client, and MONAI Label's, against the served app: what an annotator does in a day."""

import json
import shutil

import itk
import nibabel
import numpy as np
import pytest
from monailabel.client import MONAILabelClient

from sam_lora.cases import write_nifti
from tests.conftest import write_champion
from tests.monailabel_app.served import served, slicer_client, wait_for

pytestmark = pytest.mark.accept

GRIDS = {
    "ras": np.diag([1.5, 1.5, 4, 1]),
    "lps": np.diag([-1.0, -1.0, 2.0, 1]),
    "oblique": np.array(
        [[0.64, -0.48, 0, 5], [0.48, 0.64, 0, -8], [0, 0, 3, 30], [0, 0, 0, 1]]
    ),  # turned by 37 degrees
    "anisotropic": np.diag([0.5, 0.5, 8.0, 1]),
}
SHAPE, MIDDLE = (48, 40, 10), (30, 14, 5)


def phantom():
    i, j, k = np.indices(SHAPE)
    inside = ((i - 30) / 10) ** 2 + ((j - 14) / 8) ** 2 + ((k - 5) / 3.5) ** 2 < 1
    return (np.random.RandomState(0).rand(*SHAPE) * 60 + 150 * inside).astype(np.float32), inside.astype(np.uint8)


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "studies"
    folder.mkdir()
    for name, affine in GRIDS.items():
        write_nifti(folder / f"{name}.nii.gz", phantom()[0], affine)
    adapters = folder / ".sam_lora" / "adapters"
    adapters.mkdir(parents=True)
    write_champion(adapters, "a", labels={1: "ball"}, tokens=True)
    return folder


@pytest.fixture(scope="module")
def server(studies):
    with served(studies, "--labels", "ball,cube") as (url, _):
        yield url


@pytest.fixture(params=["slicer", "monailabel"])
def client(request, server, tmp_path):
    return (slicer_client() if request.param == "slicer" else MONAILabelClient)(server, str(tmp_path), "user-1")


BOX = [20, 40, 6, 22, 5, 5]
SLICER = {"result_extension": ".nrrd", "result_dtype": "uint8"}  # what Slicer adds to each request


def infer(client, model, image, **params):
    file, answer = client.infer(model, image, {**SLICER, **params})
    return itk.array_from_image(itk.imread(file)).transpose(), answer


def test_info_is_what_the_panels_want(client):
    info = client.info()
    assert "config" not in info
    assert info["labels"] == ["ball", "cube"]
    assert info["models"]["sam_lora"]["type"] == "deepgrow"
    assert info["models"]["sam_lora"]["dimension"] == 3
    assert info["models"]["sam_lora_auto"]["type"] == "segmentation"
    for model in info["models"].values():
        assert list(model["labels"].values()) == [1, 2]
        for value in model["config"].values():
            assert isinstance(value, bool | int | float | str) or all(isinstance(one, str) for one in value)
    assert next(iter(info["trainers"])) == "sam_lora"
    assert {"random", "first"} <= set(info["strategies"])
    assert info["datastore"]["total"] == len(GRIDS)


@pytest.mark.parametrize("image", GRIDS)
def test_masks_lie_on_the_clicked_voxels_and_on_the_image_s_grid(client, studies, image):
    file, answer = client.infer("sam_lora", image, {**SLICER, "label": "ball", "roi": BOX, "background": []})
    mask = itk.imread(file)
    voxels = itk.array_from_image(mask).transpose()
    assert set(np.unique(voxels)) == {0, 1}
    assert voxels[MIDDLE]
    stored = itk.imread(str(studies / f"{image}.nii.gz"))
    for index in ([0, 0, 0], [47, 39, 9]):
        assert np.allclose(
            mask.TransformIndexToPhysicalPoint(index), stored.TransformIndexToPhysicalPoint(index), atol=1e-3
        )
    assert answer["label_names"] == {"ball": 1}


def test_an_object_is_corrected_and_never_shrinks_to_a_slice(client):
    whole, _ = infer(client, "sam_lora", "lps", label="ball", roi=BOX, propagate=True)
    corrected, _ = infer(client, "sam_lora", "lps", label="ball", roi=BOX, propagate=True, background=[[5, 35, 6]])
    again, _ = infer(client, "sam_lora", "lps", label="ball", roi=BOX, propagate=True)
    assert whole.any((0, 1)).sum() > 1
    assert corrected.any((0, 1)).sum() > 1
    assert (whole == again).all()


def test_slicer_s_roi_is_unsorted_and_may_leave_the_image(client):
    one, _ = infer(client, "sam_lora", "ras", label="ball", roi=[20, 47, 6, 22, 5, 5])
    other, _ = infer(client, "sam_lora", "ras", label="ball", roi=[80, 20, 22, 6, 5, 5])
    assert (one == other).all()


def test_automatic_answers_for_every_slice(client):
    mask, answer = infer(client, "sam_lora_auto", "ras")
    assert mask.shape == SHAPE
    assert answer["label_names"] == {"ball": 1}
    assert len(answer["confidence"]["ball"]) == SHAPE[2]


def test_a_volume_of_one_s_own_is_asked_in_a_session(client, studies, tmp_path):
    own = shutil.copy(studies / "ras.nii.gz", tmp_path / "own scan.nii.gz")
    session = client.create_session(str(own))["session_id"]
    assert client.get_session(session)
    file, _ = client.infer("sam_lora", "", {**SLICER, "label": "ball", "roi": BOX}, session_id=session)
    stored, _ = infer(client, "sam_lora", "ras", label="ball", roi=BOX)
    assert (itk.array_from_image(itk.imread(file)).transpose() == stored).all()
    client.remove_session(session)
    with pytest.raises(Exception, match="404|Not Found"):
        client.get_session(session)


def test_refusals_are_sentences(client):
    with pytest.raises(Exception, match="lies outside the volume of 48 x 40 x 10 voxels"):
        client.infer("sam_lora", "ras", {**SLICER, "label": "ball", "foreground": [[99, 1, 1]]})
    with pytest.raises(Exception, match=r"asks for label .*lung.*; known are ball, cube"):
        client.infer("sam_lora", "ras", {**SLICER, "label": "lung", "roi": BOX})


def test_labels_come_back_as_they_were_saved_and_training_publishes(studies, server, tmp_path):
    """In order: nothing to train on is refused; labels saved by position; a training stopped; one that ends."""
    client = slicer_client()(server, str(tmp_path), "user-1")
    with pytest.raises(Exception, match="There is no label to train on"):
        client.train_start("sam_lora", {})
    assert client.next_sample("first", {})["id"] == "anisotropic"
    _, label = phantom()
    for image in ("ras", "lps", "oblique"):
        drawn = write_nifti(tmp_path / "drawn.nii.gz", label, GRIDS[image])
        # Slicer numbers the exported segments from 1, whatever their names' indices are
        client.save_label(image, str(drawn), "final", {"label_info": [{"name": "cube", "idx": 2}]})
        back = nibabel.load(client.download_label(image, "final"))
        assert (np.asanyarray(back.dataobj) == label).all()
        assert np.allclose(back.affine, GRIDS[image], atol=1e-4)
    assert client.info()["datastore"]["completed"] == 3
    assert client.next_sample("random", {})["id"] == "anisotropic"
    assert client.datastore()["objects"]["ras"]["labels"]["final"]["info"]["label_info"][0]["name"] == "cube"
    before = set(client.info()["models"]["sam_lora"]["config"]["adapter"])
    client.train_start("sam_lora", {"minutes": 30, "image_size": 64})
    with pytest.raises(Exception, match="429"):
        client.train_start("sam_lora", {"minutes": 30})
    assert wait_for(lambda: client.train_status()["status"] == "RUNNING")
    client.train_stop()
    assert client.train_status()["status"] == "STOPPED"
    client.train_start("sam_lora", {"minutes": 0.1, "image_size": 64})
    assert wait_for(lambda: client.train_status()["status"] in ("DONE", "ERROR"), 300)
    assert client.train_status()["status"] == "DONE", json.dumps(client.train_status())
    new = set(client.info()["models"]["sam_lora"]["config"]["adapter"]) - before
    assert len(new) == 1
    _, answer = infer(client, "sam_lora", "ras", label="cube", roi=BOX)
    assert answer["adapter"] == new.pop()  # without a restart
    _, found = infer(client, "sam_lora_auto", "anisotropic", label="cube")
    assert found["label_names"] == {"cube": 2}
    stats = client.info()["train_stats"]["sam_lora"]
    assert stats["epoch"] >= 1
    assert 0 <= stats["best_metric"] <= 1
    settings = json.loads(sorted((studies / ".sam_lora" / "training").glob("*/settings.json"))[-1].read_text())
    assert (settings["training_cases"], settings["held_out_cases"]) == (2, 1)  # the second patient is held out
