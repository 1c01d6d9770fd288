"""Which adapter answers."""

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from monailabel_app.lib import adapters as adapters_module
from monailabel_app.lib.adapters import Adapters
from sam_lora.adapter import AdapterError
from sam_lora.build import build_sam_lora
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


FAULTS = {
    "broken": "is no readable safetensors file",
    "altered": "was altered after it was written: its content does not match its seal.",
    "exchanged": "is another file than was promoted.",
    "gone": "has no adapter 'bad'",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_champion_that_cannot_serve_leaves_the_one_before_and_the_log_says_so_once(adapters, caplog, fault):
    put(adapters, "good", 20, labels={1: "spleen"})
    path = put(adapters, "bad", 10)
    for name in ("good", "bad"):
        adapters.registry.promote(name, "")
    if fault == "gone":
        path.unlink()
    elif fault == "broken":
        path.write_bytes(b"no adapter")
    elif fault == "altered":
        content = path.read_bytes()
        path.write_bytes(content[:-50] + bytes([content[-50] ^ 1]) + content[-49:])
    else:
        put(adapters, "bad", 5, rank=2)
    with caplog.at_level(logging.ERROR):
        assert adapters.get().name == "good"
        assert adapters.get().name == "good"
    assert adapters.champion_labels() == {1: "spleen"}  # a server starts with it, a training starts from it
    said = [record.getMessage() for record in caplog.records]
    said = [line for line in said if "The champion bad cannot serve, the one before it does" in line]
    assert len(said) == 1
    assert FAULTS[fault] in said[0]
    (adapters.folder / "good.safetensors").unlink()
    assert adapters.get().name == "none"


def test_a_loaded_adapter_answers_while_another_is_loaded_once_for_all_who_ask(adapters, monkeypatch):
    put(adapters, "here", 20)
    put(adapters, "loading", 10)
    here = adapters.get("here")
    begun, go, looked, built = threading.Event(), threading.Event(), threading.Semaphore(0), []
    held = adapters._held

    def looking(key):
        found = held(key)
        looked.release()
        return found

    def building(**options):
        built.append(options["adapter"].path.name)
        begun.set()
        assert go.wait(60)
        return build_sam_lora(**options)

    monkeypatch.setattr(adapters, "_held", looking)
    monkeypatch.setattr("monailabel_app.lib.adapters.build_sam_lora", building)
    with ThreadPoolExecutor(3) as pool:
        try:
            two = [pool.submit(adapters.get, "loading") for _ in range(2)]
            assert begun.wait(60)
            assert all(looked.acquire(timeout=60) for _ in range(3))  # the one that builds twice, the other once
            assert pool.submit(adapters.get, "here").result(60) is here
            assert not any(one.done() for one in two)
        finally:
            go.set()
        assert two[0].result(60) is two[1].result(60)
    assert built == ["loading.safetensors"]


@pytest.mark.parametrize("name", ["missing", "../adapters/good", "/etc/passwd", ".hidden"])
def test_only_names_in_the_folder_can_be_asked_for(adapters, name):
    put(adapters, "good", 20)
    with pytest.raises(AdapterError, match=r"adapter must be one of champion, none, good, or a digest of one, got"):
        adapters.get(name)


def test_a_pedigree_that_cannot_be_read_takes_the_quality_and_nothing_else(adapters, caplog):
    put(adapters, "before", 20)
    adapters.registry.promote("before", "")
    path = put(adapters, "a", 10, rank=8)
    adapters.registry.promote("a", "")
    (adapters.folder / "a.json").write_text("{")
    served = adapters.get()
    assert (served.name, served.quality) == ("a", {})
    assert "the quality of a is not known" in caplog.text
    assert adapters.get(file_digest(path, "sha256")) is served
    assert adapters.get(file_digest(adapters.folder / "before.safetensors", "sha256")).name == "before"


def test_a_digest_is_not_answered_by_another_file(adapters, tmp_path):
    write_random_adapter(tmp_path / "new.safetensors")
    digest = adapters.registry.add(tmp_path / "new.safetensors", "a", {})
    put(adapters, "a", 10, rank=8)
    with pytest.raises(AdapterError, match=f"a.safetensors is another file than {digest}"):
        adapters.get(digest)


def test_a_champion_for_a_network_that_is_not_known_leaves_the_one_before(adapters, monkeypatch, caplog):
    for age, name in ((20, "before"), (10, "a")):
        put(adapters, name, age, rank=age)
        adapters.registry.promote(name, "")
    build = adapters_module.build_sam_lora

    def refuse(*_, adapter, **options):
        if adapter.spec.rank == 10:
            raise ValueError("variant must be one of those.")
        return build(adapter=adapter, **options)

    monkeypatch.setattr(adapters_module, "build_sam_lora", refuse)
    assert adapters.get().name == "before"
    assert "The champion a cannot serve, the one before it does: variant must be one of those." in caplog.text
