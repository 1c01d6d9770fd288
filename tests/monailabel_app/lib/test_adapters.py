"""Which adapter answers."""

import logging
import os
from pathlib import Path

import pytest

from monailabel_app.lib.adapters import Adapters
from sam_lora.adapter import AdapterError
from sam_lora.cache import TensorCache
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


def test_the_newest_serves_from_the_moment_it_has_its_name(adapters):
    assert adapters.get().name == "none"
    old = put(adapters, "old", 20, labels={1: "spleen"})
    assert adapters.get().name == "old"
    assert adapters.get().digest == file_digest(old, "sha256")
    Path(adapters.folder / ".newer.safetensors.1.part").write_bytes(b"half")
    assert adapters.get() is adapters.get("newest")
    put(adapters, "new", 10)
    assert adapters.names() == ["new", "old"]
    assert adapters.get().name == "new"
    assert adapters.get("old").labels == {1: "spleen"}
    assert adapters.get("none").digest == ""


def test_a_replaced_file_is_loaded_anew(adapters):
    put(adapters, "a", 20)
    first = adapters.get("a")
    put(adapters, "a", 10, labels={1: "liver"})
    assert adapters.get("a").labels == {1: "liver"}
    assert adapters.get("a").digest != first.digest


def test_a_broken_newest_is_passed_over_and_named_in_the_log(adapters, caplog):
    put(adapters, "good", 20)
    (adapters.folder / "broken.safetensors").write_bytes(b"no adapter")
    with caplog.at_level(logging.WARNING):
        assert adapters.get().name == "good"
        assert adapters.get().name == "good"
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "The adapter broken is passed over" in line]) == 1
    with pytest.raises(AdapterError, match="broken"):
        adapters.get("broken")
    assert adapters.newest_labels() == {}


@pytest.mark.parametrize("name", ["missing", "../adapters/good", "/etc/passwd", ".hidden"])
def test_only_names_in_the_folder_can_be_asked_for(adapters, name):
    put(adapters, "good", 20)
    with pytest.raises(AdapterError, match=r"adapter must be one of newest, none, good, got"):
        adapters.get(name)
