"""A server that is killed while labels are saved, and one that is asked by many while it trains."""

import io
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import nibabel
import numpy as np
import psutil
import pytest
import requests

from sam_lora.adapter import Adapter, write_adapter
from sam_lora.build import build_sam_lora
from sam_lora.cases import write_nifti
from tests.monailabel_app.served import served, wait_for

logger = logging.getLogger(__name__)  # the figures: --log-cli-level=INFO shows them
SECONDS = 120  # for an answer: the machine may be busy


def scale(accept, soak):
    """Small numbers for `make accept`, large ones for `make soak`."""
    return [pytest.param(*accept, marks=pytest.mark.accept), pytest.param(*soak, marks=pytest.mark.soak)]


# ---- killed while labels are saved -----------------------------------------------------------------------------------

SHAPE, IMAGES, CLIENTS = (12, 10, 6), ("a", "b"), 4


def saved_by(client, n):
    """The label that a client saves as its n-th: which one it is can be read from its voxels."""
    label = np.zeros(SHAPE, np.uint16)
    label[client, :, :3] = 1 + n % 1000
    label[client, :, 3:] = 1 + n // 1000
    return label


def keep_saving(url, client, numbers, acknowledged, refused):
    """Save one label after the other until the server is gone."""
    image = IMAGES[client % len(IMAGES)]
    for n in numbers:
        content = nibabel.Nifti1Image(saved_by(client, n), np.eye(4)).to_bytes()
        try:
            response = requests.put(
                f"{url}/datastore/label?image={image}&tag=final", files={"label": ("drawn.nii", content)},
                data={"params": json.dumps({"client": client, "n": n})}, timeout=SECONDS,
            )  # fmt: skip
        except requests.ConnectionError:
            return
        if response.status_code == 200:
            acknowledged.append((client, n))
        else:
            refused.append(response.text)


def check_saved(url, studies, image, acknowledged, checked):
    """The newest label and all earlier ones are whole, and what was acknowledged is among them."""
    (newest,) = (studies / "labels" / "final").glob(f"{image}.*")
    info = requests.get(f"{url}/datastore/label/info?label={image}&tag=final", timeout=SECONDS).json()
    content = requests.get(f"{url}/datastore/label?label={image}&tag=final", timeout=SECONDS).content
    assert content == newest.read_bytes()
    assert (read(content) == saved_by(info["client"], info["n"])).all()
    versions = requests.get(f"{url}/datastore/label/versions?image={image}", timeout=SECONDS).json()
    kept = studies / ".sam_lora" / "versions" / "final" / image
    for one in versions:
        if one["file"] not in checked:
            assert (read((kept / one["file"]).read_bytes()) == saved_by(one["client"], one["n"])).all()
            checked.add(one["file"])
    found = {(one["client"], one["n"]) for one in [info, *versions]}
    assert {(client, n) for client, n in acknowledged if IMAGES[client % len(IMAGES)] == image} <= found


def read(content):
    return np.asanyarray(nibabel.Nifti1Image.from_stream(io.BytesIO(content)).dataobj)


@pytest.mark.parametrize("moments", scale((3,), (20,)))
def test_what_was_acknowledged_survives_a_killed_server(tmp_path, moments):
    studies, rng = tmp_path / "studies", np.random.RandomState(0)
    studies.mkdir()
    for image in IMAGES:
        write_nifti(studies / f"{image}.nii.gz", rng.rand(*SHAPE).astype(np.float32), np.eye(4))
    acknowledged, refused, checked = [], [], set()
    for moment in range(moments + 1):
        with served(studies) as (url, process):
            assert not list(studies.rglob("*.part"))
            assert not (studies / ".sam_lora" / "saving.json").exists()
            if moment > 0:
                for image in IMAGES:
                    check_saved(url, studies, image, acknowledged, checked)
            if moment == moments:
                break
            before = len(acknowledged)
            threads = [
                threading.Thread(
                    target=keep_saving,
                    args=(url, client, range(10_000 * moment, 10_000 * (moment + 1)), acknowledged, refused),
                )
                for client in range(CLIENTS)
            ]
            for thread in threads:
                thread.start()
            assert wait_for(lambda before=before: len(acknowledged) > before + CLIENTS)
            time.sleep(rng.uniform(0, 1))
            process.kill()
            for thread in threads:
                thread.join()
    assert refused == []
    logger.info("%d kills, %d labels acknowledged, %d earlier versions read", moments, len(acknowledged), len(checked))


# ---- asked by many while it trains -----------------------------------------------------------------------------------


def inside_ball():
    i, j, k = np.indices((64, 56, 8))
    return ((i - 30) / 12) ** 2 + ((j - 28) / 10) ** 2 + ((k - 4) / 4) ** 2 < 1


def click(url, adapter, roi):
    """The mask of a box in a slice, as bytes of its file."""
    params = {"roi": roi, "adapter": adapter, "result_extension": ".nii", "result_compress": False}
    response = requests.post(
        f"{url}/infer/sam_lora?image=scan&output=image", data={"params": json.dumps(params)}, timeout=SECONDS
    )
    assert response.status_code == 200, response.text
    return response.content


def start_training(url, process, studies):
    """Save two patients' labels, train on one of them, wait until it has done an epoch; the training's processes."""
    ball = nibabel.Nifti1Image(inside_ball().astype(np.uint8), np.eye(4)).to_bytes()
    for image in ("scan", "other"):
        saved = requests.put(
            f"{url}/datastore/label?image={image}", files={"label": ("drawn.nii", ball)},
            data={"params": json.dumps({"label_info": [{"name": "ball", "idx": 1}]})}, timeout=SECONDS,
        )  # fmt: skip
        assert saved.status_code == 200, saved.text
    started = requests.post(
        f"{url}/train/sam_lora", json={"minutes": 60, "slices": 0, "image_size": 64}, timeout=SECONDS
    )
    assert started.status_code == 200, started.text
    epochs = ".sam_lora/training/*/runs/train-*/history.json"
    assert wait_for(lambda: list(studies.glob(epochs)) or training_status(url) == "ERROR", 300)
    assert training_status(url) == "RUNNING"
    processes = psutil.Process(process.pid).children(recursive=True)
    assert processes
    return processes


def training_status(url):
    return requests.get(f"{url}/train/", timeout=SECONDS).json()["status"]


def ask_all_at_once(url, boxes, clients):
    """The answers to all boxes, which so many clients share among them; errors are raised."""
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(lambda box: click(url, "many", box), boxes))


@pytest.mark.parametrize(("clients", "clicks"), scale((4, 10), (8, 50)))
def test_many_clients_get_what_one_gets_while_the_server_trains(tmp_path, clients, clicks):
    """Two copies of one adapter share the slices that were encoded; what is decoded, each decodes for itself."""
    studies, rng = tmp_path / "studies", np.random.RandomState(0)
    adapters = studies / ".sam_lora" / "adapters"
    adapters.mkdir(parents=True)
    network = build_sam_lora()  # the real vit_t at its own size; LoRA at its start leaves it as it is
    for name in ("one", "many"):
        write_adapter(adapters / f"{name}.safetensors", Adapter(network.spec, network.adapter_tensors()))
    for image in ("scan", "other"):
        array = (rng.rand(64, 56, 8) * 60 + 150 * inside_ball()).astype(np.float32)
        write_nifti(studies / f"{image}.nii.gz", array, np.eye(4))
    boxes = [[15 + n % 7, 40 + n // 7 % 8, 16 + n // 56, 40, 1 + n % 6, 1 + n % 6] for n in range(clients * clicks)]
    with served(studies, "--labels", "ball") as (url, process):
        alone = [click(url, "one", box) for box in boxes]
        assert len(set(alone)) > len(boxes) // 4  # different clicks, different masks
        processes = start_training(url, process, studies)
        begun = time.perf_counter()
        together = ask_all_at_once(url, boxes, clients)
        seconds = time.perf_counter() - begun
        assert training_status(url) == "RUNNING"  # all the while
        equal = sum(one == other for one, other in zip(alone, together, strict=True))
        logger.info("%d clients x %d clicks: %.1f s, no error, %d equal masks", clients, clicks, seconds, equal)
        assert equal == len(boxes)

        requests.delete(f"{url}/train/", timeout=SECONDS)
        assert training_status(url) == "STOPPED"
        assert psutil.wait_procs(processes, 10)[1] == []  # the whole tree is gone
        assert {path.name for path in adapters.iterdir()} == {"one.safetensors", "many.safetensors"}
        assert click(url, "many", boxes[0]) == alone[0]
