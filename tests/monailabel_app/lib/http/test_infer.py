"""Inferences over HTTP while the device is busy."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from monailabel_app.lib.http.guard import ServerRules
from monailabel_app.main import SamLoraLabel
from monailabel_app.server import create_server
from sam_lora.cases import write_nifti
from tests.conftest import REPOSITORY, write_champion

BOX = [4, 20, 4, 18, 2, 2]


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("infer") / "studies"
    folder.mkdir()
    write_nifti(folder / "a.nii.gz", np.random.RandomState(0).rand(24, 22, 5).astype(np.float32), np.eye(4))
    (folder / ".sam_lora" / "adapters").mkdir(parents=True)
    write_champion(folder / ".sam_lora" / "adapters", "r", labels={1: "spleen", 2: "liver"}, tokens=True)
    return SamLoraLabel(str(REPOSITORY / "monailabel_app"), str(folder), {"labels": "spleen,liver"})


@pytest.fixture
def client(app):
    server = create_server(app, ServerRules(max_wait_seconds=0.2))
    return TestClient(server, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


def wait_until_idle():
    """Slices around the last click are encoded, on a slow machine for longer than one may wait here."""
    for thread in threading.enumerate():
        if thread.name == "ahead":
            thread.join()


def infer(client, model, **params):
    return client.post(f"/infer/{model}?image=a", data={"params": json.dumps(params)})


REQUESTS = {"sam_lora": {"roi": BOX, "label": "liver"}, "sam_lora_auto": {"adapter": "r"}}


@pytest.mark.parametrize("model", REQUESTS)
def test_who_waits_too_long_for_the_device_is_told_to_come_back(app, client, model):
    wait_until_idle()
    assert infer(client, model, **REQUESTS[model]).status_code == 200
    wait_until_idle()
    with app.parts.service.device.hold():
        busy = infer(client, model, **REQUESTS[model], max_wait_seconds=1000)  # that is not the client's to say
    assert busy.status_code == 503
    assert busy.json()["detail"] == "The device cpu was busy for 0.2 seconds: try again in a while."
    assert busy.headers["retry-after"] == "2"
    assert infer(client, model, **REQUESTS[model]).status_code == 200


def test_what_has_begun_goes_on_however_long_others_have_the_device(app, client, monkeypatch):
    """A long work gives way between its slices, and gets the device back later than a request may wait."""
    device, given = app.parts.service.device, threading.Event()
    give_way = device.give_way

    def to_another():
        if not given.is_set():
            given.set()
            device._release()
            with device.hold():
                threading.Event().wait(0.5)
            device._take(False, None)
        give_way()

    monkeypatch.setattr(device, "give_way", to_another)
    wait_until_idle()
    assert infer(client, "sam_lora_auto", **REQUESTS["sam_lora_auto"]).status_code == 200
    assert given.is_set()


def test_what_a_server_does_by_itself_waits_as_long_as_it_takes(app):
    device, answers = app.parts.service.device, []
    request = {"image": app.datastore().get_image_uri("a"), **REQUESTS["sam_lora"]}
    thread = threading.Thread(target=lambda: answers.append(app.parts.prompted(request)))
    with device.hold():
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
    thread.join(60)
    assert len(answers) == 1


def test_nothing_is_kept_of_an_image_that_came_with_the_request(app, client):
    service = app.parts.service
    held, answered = list(service.images._held), list(service._answered)
    with Path(app.datastore().get_image_uri("a")).open("rb") as image:
        asked = {"files": {"file": ("mine.nii.gz", image)}, "data": {"params": json.dumps(REQUESTS["sam_lora"])}}
        assert client.post("/infer/sam_lora", **asked).status_code == 200
    refused = client.post("/infer/sam_lora", files={"file": ("x.nii.gz", b"no image")})
    assert refused.status_code == 400
    assert (list(service.images._held), list(service._answered)) == (held, answered)
