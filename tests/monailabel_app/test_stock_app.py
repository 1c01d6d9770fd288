"""The bundle as it is in MONAI Label's own `monaibundle` app: clicks, labels, a training, and what it learned served."""

import gzip
import json
import os
import shutil
import subprocess

import nibabel
import numpy as np
import pytest
import requests
from monailabel.client import MONAILabelClient

from sam_lora.build import build_sam_lora, write_zero_model
from sam_lora.cases import write_nifti
from sam_lora.predictor import Predictor
from tests.monailabel_app.served import ended, free_port, monailabel_file, wait_for
from tests.monailabel_app.test_clients import GRIDS, MIDDLE, SHAPE, phantom

pytestmark = pytest.mark.accept

MODEL = "sam_lora_deepgrow"  # the app derives the kind of a model from its folder's name


@pytest.fixture(scope="module")
def model(copy, tmp_path_factory):
    """The app from the wheel with a copy of the bundle in it, set to be quick; the bundle's folder."""
    app = tmp_path_factory.mktemp("stock") / "monaibundle"
    shutil.copytree(monailabel_file("sample-apps/monaibundle/main.py").parent, app)
    shutil.copytree(copy, app / "model" / MODEL)
    folder = app / "model" / MODEL
    write_zero_model("vit_t", folder / "models")
    for config in ("inference", "train"):
        path = folder / "configs" / f"{config}.json"
        quick = {"image_size": 64} if config == "inference" else {"image_size": 64, "accumulation_steps": 1}
        path.write_text(json.dumps({**json.loads(path.read_text()), **quick}))
    return folder


@pytest.fixture(scope="module")
def server(model, python):
    app = model.parents[1]
    studies, port, log = app.parent / "studies", free_port(), app.parent / "server.log"
    studies.mkdir()
    for name, affine in GRIDS.items():
        write_nifti(studies / f"{name}.nii.gz", phantom()[0], affine)
    command = [python, "-m", "monailabel.main", "start_server", "--app", app, "--studies", studies, "--host", "127.0.0.1",
               "--port", port, "--conf", "models", MODEL, "--conf", "zoo_source", "local", "--conf", "sam2", "false"]  # fmt: skip
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*map(str, command)], stdout=file, stderr=subprocess.STDOUT, cwd=app.parent,
            env={**os.environ, "PYTHONPATH": "", "MONAI_LABEL_TRACKING_ENABLED": "false"},
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with ended(process):
        assert wait_for(lambda: process.poll() is not None or answers(url)) is True, log.read_text()[-3000:]
        yield url


def answers(url):
    try:
        return requests.get(f"{url}/info/", timeout=10).ok
    except requests.ConnectionError:
        return False


def segment(server, image, **params):
    """Label map of an answer, and its affine."""
    done = requests.post(
        f"{server}/infer/{MODEL}?image={image}&output=image", timeout=300,
        data={"params": json.dumps({"label": "object", "result_extension": ".nii.gz", "device": "cpu", **params})},
    )  # fmt: skip
    assert done.ok, done.text
    found = nibabel.Nifti1Image.from_bytes(gzip.decompress(done.content))
    return np.asanyarray(found.dataobj), found.affine


def test_the_stock_app_clicks_trains_and_serves_what_was_learned(server, model, tmp_path):
    client = MONAILabelClient(server, str(tmp_path))
    described = client.info()["models"][MODEL]
    assert (described["type"], described["labels"]) == ("deepgrow", {"object": 1})
    i, j, k = MIDDLE
    box = [20, 40, 6, 22, k, k]
    corrected = {"roi": box, "foreground": [[i, j, k]], "background": [[38, 19, k]]}
    for image, affine in GRIDS.items():
        mask, its = segment(server, image, roi=box)
        assert mask.shape == SHAPE
        assert np.allclose(its, affine, atol=1e-4)
        assert mask[i, j, k]
        assert mask.any((0, 1)).nonzero()[0].tolist() == [k]
    asked, _ = segment(server, "ras", roi=box)
    clicked, _ = segment(server, "ras", **corrected)
    assert (clicked != asked).any()
    assert clicked.any((0, 1)).nonzero()[0].tolist() == [k]
    for image in ("ras", "lps", "oblique"):
        client.save_label(image, str(write_nifti(tmp_path / "label.nii.gz", phantom()[1], GRIDS[image])))
    client.train_start(MODEL, {"max_epochs": 3, "device": "cpu", "val_split": 0.34})
    assert wait_for(lambda: client.train_status()["status"] in ("DONE", "ERROR"), 300)
    assert client.train_status()["status"] == "DONE", json.dumps(client.train_status())
    (history,) = (model / "eval").glob("*/history.json")
    assert len(json.loads(history.read_text())) == 3
    assert json.loads(history.read_text())[-1]["val_mean_dice"] > 0.7
    learned, _ = segment(server, "ras", **corrected)  # without a restart
    assert (learned != clicked).any()
    ours = Predictor(build_sam_lora(adapter=str(model / "models" / "adapter_best.safetensors")).eval())
    ours.set_volume(model.parents[2] / "studies" / "ras.nii.gz")
    assert (learned == ours.segment(corrected)).all()
    assert dice(learned, phantom()[1]) > 0.9


def dice(mask, truth):
    """Of two label maps, on the slice in the middle."""
    mask, truth = mask[..., MIDDLE[2]], truth[..., MIDDLE[2]]
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
