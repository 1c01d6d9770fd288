"""What the network makes of each image: written down one by one, and anew for another adapter."""

import json

import numpy as np
import pytest

from monailabel_app.lib.datastores.local import StudiesFolder
from monailabel_app.lib.scoring import seen as module
from monailabel_app.lib.scoring.seen import Scoring, SeenFile
from monailabel_app.lib.service import Service
from sam_lora.cases import write_nifti
from tests.conftest import write_random_adapter


@pytest.fixture
def service(tmp_path):
    service = Service(tmp_path / "adapters")
    (tmp_path / "adapters").mkdir()
    for number, name in enumerate("ab"):
        path = service.adapters.registry.folder / f"{name}.safetensors"
        write_random_adapter(path, labels={1: "spleen"}, tokens=True, rank=4 + number)
    write_random_adapter(service.adapters.registry.folder / "plain.safetensors")
    service.adapters.registry.promote("plain", "")
    service.adapters.registry.promote("a", "")
    return service


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "studies"
    folder.mkdir()
    for n in range(3):
        write_nifti(folder / f"p{n}.nii.gz", np.random.RandomState(n).rand(20, 24, 2).astype(np.float32), np.eye(4))
    return StudiesFolder(str(folder))


def test_a_scoring_that_was_stopped_goes_on_and_another_champion_is_asked_anew(service, store, tmp_path, monkeypatch):
    before = (tmp_path / "studies" / "datastore_v2.json").read_bytes()
    looked = []
    look_at = module.look_at

    def look(embedder, volume, tokens):
        if len(looked) == 2:
            raise KeyboardInterrupt
        looked.append(volume)
        return look_at(embedder, volume, tokens)

    monkeypatch.setattr(module, "look_at", look)
    seen = SeenFile(tmp_path / "seen.json")
    scoring = Scoring(service, seen)
    with pytest.raises(KeyboardInterrupt):
        scoring({}, store)
    assert sorted(seen.read()) == ["p0", "p1"]
    looked.clear()
    found = scoring({}, store)
    assert len(looked) == 1  # the third
    assert {one["adapter"] for one in found.values()} == {"a"}
    assert all(0 <= one["uncertainty"] <= 1 for one in found.values())
    service.adapters.registry.promote("b", "")
    looked.clear()
    monkeypatch.setattr(module, "look_at", look_at)
    assert {one["adapter"] for one in scoring({}, store).values()} == {"b"}
    assert (tmp_path / "studies" / "datastore_v2.json").read_bytes() == before


def test_without_tokens_images_have_looks_and_no_uncertainty(service, store, tmp_path):
    service.adapters.registry.rollback()
    seen = SeenFile(tmp_path / "seen.json")
    assert {one["uncertainty"] for one in Scoring(service, seen)({}, store).values()} == {None}
    assert all(abs(np.linalg.norm(one.features) - 1) < 1e-3 for one in seen.read().values())


def test_an_image_that_cannot_be_read_keeps_no_other_from_being_looked_at(service, store, tmp_path, caplog):
    (tmp_path / "studies" / "p1.nii.gz").write_bytes(b"no image")
    seen = SeenFile(tmp_path / "seen.json")
    assert sorted(Scoring(service, seen)({}, store)) == ["p0", "p2"]
    assert "p1, 2 of 3, cannot be looked at" in caplog.text


def test_an_image_that_is_gone_is_forgotten(service, store, tmp_path):
    seen = SeenFile(tmp_path / "seen.json")
    seen.path.write_text(json.dumps({"gone": {"uncertainty": 1, "features": [1], "adapter_digest": ""}}))
    service.adapters.registry.rollback()
    assert sorted(Scoring(service, seen)({}, store)) == ["p0", "p1", "p2"]
    assert sorted(seen.read()) == ["p0", "p1", "p2"]


def test_an_image_that_is_removed_meanwhile_keeps_no_other_from_being_looked_at(service, store, tmp_path, monkeypatch):
    listed = store.list_images()
    monkeypatch.setattr(store, "list_images", lambda: listed)
    store.remove_image("p1")
    assert sorted(Scoring(service, SeenFile(tmp_path / "seen.json"))({}, store)) == ["p0", "p2"]


def test_what_two_adapters_saw_is_not_compared(tmp_path):
    rows = {
        name: {"uncertainty": 0.5, "features": [1.0], "adapter_digest": digest}
        for name, digest in (("a", "old"), ("b", "old"), ("c", "new"))
    }
    path = tmp_path / "seen.json"
    path.write_text(json.dumps(rows))
    assert sorted(SeenFile(path).read()) == ["a", "b"]  # a scoring has just begun
    rows["b"]["adapter_digest"] = "new"
    path.write_text(json.dumps(rows))
    assert sorted(SeenFile(path).read()) == ["b", "c"]
