"""A server that wants a token, through Slicer's own client; batches over HTTP, which never pass for a human's work; scores."""

import hashlib
import json
from pathlib import Path

import pytest
import requests

from sam_lora.cases import write_nifti
from tests.conftest import write_champion
from tests.monailabel_app.served import served, slicer_client, wait_for
from tests.monailabel_app.test_clients import BOX, GRIDS, SLICER, phantom

pytestmark = pytest.mark.accept

TOKEN = "correct horse battery staple"  # noqa: S105  of this test alone


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("token") / "studies"
    (folder / ".sam_lora" / "adapters").mkdir(parents=True)
    for name in ("ras", "lps"):
        write_nifti(folder / f"{name}.nii.gz", phantom()[0], GRIDS[name])
    write_champion(folder / ".sam_lora" / "adapters", "a", labels={1: "ball"}, tokens=True)
    secret = folder.parent / "token"
    secret.write_text(TOKEN + "\n")
    with served(folder, "--labels", "ball", "--token-file", secret) as (url, _):
        yield url


@pytest.fixture
def client(server, tmp_path):
    """Slicer's, logged in as its module does it."""
    client = slicer_client()(server, str(tmp_path), "user-1")
    assert client.auth_enabled()
    client.update_auth(client.auth_token("anyone", TOKEN))
    return client


def saved(client, tmp_path):
    label = write_nifti(tmp_path / "label.nii.gz", phantom()[1], GRIDS["ras"])
    client.save_label("ras", str(label), "final", {"label_info": [{"name": "ball", "idx": 1}]})
    return digest(client.download_label("ras", "final"))


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_slicer_logs_in_and_works(server, client, tmp_path):
    stranger = slicer_client()(server, str(tmp_path))
    assert stranger.auth_enabled()
    assert not stranger.auth_valid_token()
    for ask in (stranger.info, lambda: stranger.infer("sam_lora", "ras", {**SLICER, "label": "ball", "roi": BOX})):
        with pytest.raises(Exception, match="Status: 401; Response: .*This server wants a token"):
            ask()
    with pytest.raises(Exception, match="Status: 401; Response: .*The password is not the server.+s token"):
        stranger.auth_token("anyone", "wrong")
    assert client.auth_valid_token()
    assert client.info()["labels"] == ["ball"]
    file, answer = client.infer("sam_lora", "ras", {**SLICER, "label": "ball", "roi": BOX})
    assert answer["label_names"] == {"ball": 1}
    assert file
    saved(client, tmp_path)
    assert client.datastore()["objects"]["ras"]["labels"]["final"]["info"]["made_by"] == "human"


def test_a_batch_leaves_what_humans_have_finished_alone(server, client, tmp_path):
    human = saved(client, tmp_path)
    batch, header = f"{server}/batch/infer", {"Authorization": f"Bearer {TOKEN}"}

    def ask(method, url, **options):
        return requests.request(method, url, headers=header, timeout=60, **options)

    def status():
        return ask("GET", f"{batch}").json()["status"]

    # a client may not choose the tag
    begun = ask("POST", f"{batch}/sam_lora_auto?images=all", json={"label_tag": "final", "save_label": False})
    assert begun.status_code == 200
    second = ask("POST", f"{batch}/sam_lora_auto?images=all", json={})
    assert second.status_code == 429
    assert "A task of batch_infer is running already" in second.json()["detail"]
    assert wait_for(lambda: status() in ("DONE", "ERROR"))
    assert status() == "DONE", ask("GET", batch).json()
    images = client.datastore()["objects"]
    assert {name: sorted(one["labels"]) for name, one in images.items()} == {
        "lps": ["original"],
        "ras": ["final", "original"],
    }
    assert {one["labels"]["original"]["info"]["made_by"] for one in images.values()} == {"model"}
    assert digest(client.download_label("ras", "final")) == human
    assert client.info()["datastore"]["completed"] == 1
    assert client.next_sample("first", {})["id"] == "lps"
    assert [
        pair["image"].endswith("ras.nii.gz") for pair in ask("GET", f"{server}/datastore/?output=train").json()
    ] == [True]

    assert ask("POST", f"{batch}/sam_lora_auto?images=all", json={}).status_code == 200
    assert wait_for(lambda: status() == "RUNNING")
    assert ask("DELETE", batch).json()["status"] == "STOPPED"
    assert status() == "STOPPED"
    assert ask("GET", f"{batch}?check_if_running=true").status_code == 404


def test_every_image_is_looked_at(server, client, tmp_path):
    saved(client, tmp_path)
    url, header = f"{server}/scoring/", {"Authorization": f"Bearer {TOKEN}"}
    assert requests.post(f"{url}uncertainty", headers=header, timeout=60).status_code == 200
    assert wait_for(lambda: requests.get(url, headers=header, timeout=60).json()["status"] in ("DONE", "ERROR"))
    assert requests.get(url, headers=header, timeout=60).json()["status"] == "DONE"
    path = Path(client.next_sample("first", {})["path"])
    seen = json.loads((path.parent / ".sam_lora" / "seen.json").read_text())
    assert {"lps", path.name.removesuffix(".nii.gz")} <= seen.keys()
    assert all(0 <= one["uncertainty"] <= 1 for one in seen.values())
