"""Which adapter answers."""

import logging
import os

import numpy as np
import pytest
import torch

from monailabel_app.lib.adapters import Adapters
from sam_lora.adapter import AdapterError
from sam_lora.cache import TensorCache
from sam_lora.registry import Registry
from sam_lora.volumes import Volume
from sam_lora.weights import file_digest
from tests.conftest import write_random_adapter


@pytest.fixture
def adapters(tmp_path):
    return Adapters(tmp_path / "adapters", "vit_t", "cpu", TensorCache(1 << 20))


def put(adapters, name, age, **options):
    path = adapters.folder / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    write_random_adapter(path, **options)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def test_the_champion_serves_from_the_request_after_its_promotion(adapters):
    assert adapters.get().name == "none"
    old = put(adapters, "old", 20, labels={1: "spleen"})
    put(adapters, "new", 10)
    assert adapters.names() == ["new", "old"]
    assert adapters.get().name == "none"  # nobody promoted one
    assert adapters.champion_labels() == {}
    Registry(adapters.folder).promote("old", "by another process")
    served = adapters.get()
    assert (served.name, served.digest) == ("old", file_digest(old, "sha256"))
    assert adapters.champion_labels() == {1: "spleen"}
    assert adapters.get("champion") is adapters.get(served.digest) is served
    Registry(adapters.folder).promote("new", "")
    assert adapters.get().name == "new"
    assert adapters.get("old") is served
    assert adapters.get("none").digest == ""


def test_rolling_back_restores_the_answers_bit_for_bit(adapters):
    volume = Volume(np.random.RandomState(0).randint(0, 255, (30, 40, 2), np.uint8))
    answers = []
    for n, name in enumerate("ab"):
        put(adapters, name, n, rank=4 + n)
        adapters.registry.promote(name, "")
        answers.append(adapters.get().embedder.embed(volume, [1])[0])
    assert not torch.equal(*answers)
    adapters.registry.rollback()
    assert torch.equal(adapters.get().embedder.embed(volume, [1])[0], answers[0])


def test_a_replaced_file_is_loaded_anew(adapters):
    put(adapters, "a", 20)
    first = adapters.get("a")
    put(adapters, "a", 10, labels={1: "liver"})
    assert adapters.get("a").labels == {1: "liver"}
    assert adapters.get("a").digest != first.digest


@pytest.mark.parametrize("fault", ["broken", "exchanged", "gone"])
def test_a_champion_that_cannot_serve_leaves_the_one_before_and_the_log_says_so_once(adapters, caplog, fault):
    put(adapters, "good", 20, labels={1: "spleen"})
    path = put(adapters, "bad", 10)
    for name in ("good", "bad"):
        adapters.registry.promote(name, "")
    if fault == "gone":
        path.unlink()
    elif fault == "broken":
        path.write_bytes(b"no adapter")
    else:
        put(adapters, "bad", 5, rank=2)
    with caplog.at_level(logging.ERROR):
        assert adapters.get().name == "good"
        assert adapters.get().name == "good"
    assert adapters.champion_labels() == {1: "spleen"}  # a server starts with it, a training starts from it
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "The champion bad cannot serve, the one before it does" in line]) == 1
    (adapters.folder / "good.safetensors").unlink()
    assert adapters.get().name == "none"


@pytest.mark.parametrize("name", ["missing", "../adapters/good", "/etc/passwd", ".hidden"])
def test_only_names_in_the_folder_can_be_asked_for(adapters, name):
    put(adapters, "good", 20)
    with pytest.raises(AdapterError, match=r"adapter must be one of champion, none, good, or a digest of one, got"):
        adapters.get(name)
