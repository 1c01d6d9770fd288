"""The loop through 3D Slicer's own client: labels are saved, a training is judged, and what it made answers, without a restart."""

import json
import threading

import numpy as np
import pytest
import requests

from sam_lora.cases import write_nifti
from sam_lora.registry import Registry
from tests.conftest import REPOSITORY, run_python, write_random_adapter
from tests.monailabel_app.served import served, slicer_client, wait_for
from tests.monailabel_app.test_clients import BOX, phantom

pytestmark = pytest.mark.accept


@pytest.fixture
def studies(tmp_path):
    folder = tmp_path / "studies"
    folder.mkdir()
    image, label = phantom()
    for n in range(3):
        noise = np.random.RandomState(n).rand(*image.shape).astype(np.float32)
        write_nifti(folder / f"p{n}.nii.gz", image + 20 * noise, np.eye(4))
    write_nifti(tmp_path / "drawn.nii.gz", label, np.eye(4))
    return folder


def adapter_of(client, image="p0", **params):
    _, answer = client.infer("sam_lora", image, {"label": "ball", "roi": BOX, "result_extension": ".nrrd", **params})
    return answer["adapter"], answer["adapter_digest"]


def test_saved_labels_train_a_challenger_that_answers_once_it_is_promoted(studies, tmp_path):
    with served(studies, "--labels", "ball", "--train-every", "3", "--margin", "0.5") as (url, _):
        client = slicer_client()(url, str(tmp_path), "user-1")
        assert adapter_of(client) == ("none", "")
        info = {"label_info": [{"name": "ball", "idx": 1}]}
        for n in range(3):
            client.save_label(f"p{n}", str(tmp_path / "drawn.nii.gz"), "final", info)
        # The third label started a training of its own: its default of minutes is stopped, a short one is asked for.
        assert wait_for(lambda: client.train_status()["status"] == "RUNNING")
        client.train_stop()
        client.train_start("sam_lora", {"minutes": 0.1, "image_size": 64})

        def over():
            return client.train_status()["status"] in ("DONE", "ERROR")

        assert wait_for(over, 300)
        stats = client.info()["train_stats"]["sam_lora"]
        registry = Registry(studies / ".sam_lora" / "adapters")
        assert stats["promoted"], stats["why"]
        name, digest = adapter_of(client)
        assert (name, digest) == (stats["model"], registry.line()[-1]["digest"])
        assert adapter_of(client, adapter=digest) == (name, digest)
        client.save_label("p0", str(tmp_path / "drawn.nii.gz"), "final", info)
        saved = requests.get(f"{url}/datastore/label/info?label=p0&tag=final", timeout=30).json()
        assert (saved["adapter"], saved["adapter_digest"]) == (name, digest)
        pedigree = requests.get(f"{url}/adapters/{name}", timeout=30).json()
        assert [one["image"] for one in pedigree["cases"]] == ["p0", "p2"]
        assert requests.get(f"{url}/adapters/?trained_on=p2", timeout=30).json()["adapters"] == [name]
        assert requests.post(f"{url}/adapters/rollback", timeout=30).json() == {"champion": "none"}
        assert adapter_of(client) == ("none", "")
        listed = run_python("scripts/adapter.py", "promote", registry.folder, name, cwd=REPOSITORY)
        assert listed.returncode == 0, listed.stderr
        assert adapter_of(client) == (name, digest)  # another process promoted it


def test_answers_are_one_adapters_each_while_a_third_is_promoted(studies, tmp_path):
    registry = Registry(studies / ".sam_lora" / "adapters")
    registry.folder.mkdir(parents=True)
    for strength, name in zip((0.05, 0.3, 1.0), "abc", strict=True):
        write_random_adapter(registry.folder / f"{name}.safetensors", strength)
    registry.promote("a", "")
    with served(studies, "--labels", "ball") as (url, _):

        def ask(**params):
            asked = {"label": "ball", "roi": BOX, "result_extension": ".nrrd", **params}
            response = requests.post(f"{url}/infer/sam_lora?image=p0", data={"params": json.dumps(asked)}, timeout=120)
            assert response.status_code == 200, response.text
            boundary = response.headers["content-type"].split("boundary=")[1].strip('"').encode()
            parts = response.content.split(b"--" + boundary)[1:-1]
            params, mask = (next(p for p in parts if f'name="{n}"'.encode() in p) for n in ("params", "image"))
            return json.loads(params.split(b"\r\n\r\n", 1)[1])["adapter"], mask.split(b"\r\n\r\n", 1)[1]

        alone = {name: ask(adapter=name)[1] for name in "abc"}
        assert len(set(alone.values())) == 3
        found, lock = [], threading.Lock()

        def work(number):
            for n in range(50):
                pinned = {"adapter": "b"} if (n + number) % 2 else {}
                name, mask = ask(**pinned)
                with lock:
                    found.append((bool(pinned), name, mask))
                    if len(found) == 80:
                        registry.promote("c", "while others ask")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 200
        assert all(mask == alone[name] for _, name, mask in found)
        assert {name for pinned, name, _ in found if pinned} == {"b"}
        assert {name for pinned, name, _ in found if not pinned} == {"a", "c"}
