"""The cache of what lies below the lowest trained layer: never another's, never damaged, never computed twice."""

import os

import pytest
import torch

from sam_lora.build import build_sam_lora
from sam_lora.trunk import TrunkCache, forget_oldest


def images(count=2, seed=0):
    return (torch.rand(count, 3, 20, 30, generator=torch.Generator().manual_seed(seed)) * 255).round()


@pytest.fixture(scope="module")
def network():
    return build_sam_lora(image_size=64, layers="late")


@pytest.fixture
def runs(network, monkeypatch):
    """How many images went through the trunk, call by call."""
    counted, trunk = [], type(network).trunk
    monkeypatch.setattr(type(network), "trunk", lambda self, x, cut: (counted.append(len(x)), trunk(self, x, cut))[1])
    return counted


@pytest.fixture(params=["memory", "disk"])
def cache(request, network, tmp_path):
    return TrunkCache(network, folder=None if request.param == "memory" else tmp_path)


def test_it_holds_what_the_trunk_computes_rounded_to_bfloat16(cache, network):
    with torch.no_grad():
        expected = network.trunk(images(), network.cut)
    for _ in range(2):
        found = cache(images())
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, expected.to(torch.bfloat16))
    embedding = network.rest(cache(images()), network.cut)
    exact = network.encode(images()).detach()
    assert float((embedding.detach() - exact).norm() / exact.norm()) < 0.01
    assert embedding.requires_grad


def test_each_image_is_computed_once_however_it_is_batched(cache, runs):
    several = images(3)
    cache(several[:2])
    cache(several)
    cache(several[[2, 0]])
    cache(several.to(torch.uint8))
    assert runs == [2, 1]


def test_no_key_is_shared_by_what_differs(network, tmp_path, runs):
    TrunkCache(network, folder=tmp_path)(images())
    TrunkCache(network, folder=tmp_path)(images(seed=1))
    TrunkCache(network, folder=tmp_path)(images() + 0.25)
    TrunkCache(network, folder=tmp_path)(images().flip(-1))
    TrunkCache(network, folder=tmp_path)(images().transpose(-1, -2))
    TrunkCache(build_sam_lora(image_size=128, layers="late"), folder=tmp_path)(images())
    TrunkCache(build_sam_lora(image_size=64, layers=[7]), folder=tmp_path)(images())
    other_base = build_sam_lora(image_size=64, layers="late")
    with torch.no_grad():
        other_base.image_encoder.get_parameter("layers.2.blocks.0.attn.qkv.bias").add_(1)
    TrunkCache(other_base, folder=tmp_path)(images())
    with torch.autocast("cpu", torch.bfloat16):
        TrunkCache(network, folder=tmp_path)(images())
    assert runs == [2] * 9
    assert len(list(tmp_path.iterdir())) == 18


def test_an_adapter_above_the_cut_keeps_it(network, tmp_path, runs):
    TrunkCache(network, folder=tmp_path)(images())
    above = build_sam_lora(image_size=64, layers="late", rank=2, decoder="full")
    with torch.no_grad():
        for tensor in above.adapter_tensors().values():
            tensor.add_(1)
    TrunkCache(above, folder=tmp_path)(images())
    assert runs == [2]


def test_with_no_layer_adapted_it_holds_the_embedding(runs):
    network = build_sam_lora(image_size=64, layers=[], decoder="lora")
    cache = TrunkCache(network)
    cache(images())
    with torch.no_grad():
        assert torch.equal(network.rest(cache(images()), network.cut), network.encode(images()).to(torch.bfloat16))
    assert runs == [2]  # encode calls the encoder whole


@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b[:-2], lambda b: b[:-2] + b"xy", lambda b: b""])
def test_a_damaged_file_is_computed_again_and_replaced(damage, network, tmp_path, runs):
    expected = TrunkCache(network, folder=tmp_path)(images(1))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert torch.equal(TrunkCache(network, folder=tmp_path)(images(1)), expected)
    assert len(path.read_bytes()) == len(whole)
    assert torch.equal(TrunkCache(network, folder=tmp_path)(images(1)), expected)
    assert runs == [1, 1]


def test_a_file_under_anothers_name_is_not_served(network, tmp_path):
    cache = TrunkCache(network, folder=tmp_path)
    expected = cache(images())
    first, second = tmp_path.iterdir()
    second.write_bytes(first.read_bytes())
    assert torch.equal(TrunkCache(network, folder=tmp_path)(images()), expected)


def test_memory_stays_bounded(network, runs):
    one = TrunkCache(network)
    size = one(images(1)).nbytes
    cache = TrunkCache(network, max_bytes=2 * size)
    for image in images(4).split(1):
        cache(image)
        assert cache.statistics.bytes <= 2 * size
    cache(images(4)[3:])
    assert runs == [1] * 5


def test_a_trained_trunk_is_refused(network):
    other = build_sam_lora(image_size=64, layers="late")
    other.image_encoder.requires_grad_(True)
    with pytest.raises(
        ValueError, match="trunk_cache keeps what lies below part 8 .* and layers.0.blocks.0.* is trained"
    ):
        TrunkCache(other)


def test_a_folder_is_kept_within_its_size_the_oldest_go_first(tmp_path):
    for n in range(4):
        (tmp_path / f"{n}.safetensors").write_bytes(bytes(10))
        os.utime(tmp_path / f"{n}.safetensors", (1e9 + n, 1e9 + n))
    forget_oldest(tmp_path, 25)
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["2", "3"]
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "by another process")  # listed, and not there
    forget_oldest(tmp_path, 15)
    assert [path.name for path in tmp_path.iterdir() if path.exists()] == ["3.safetensors"]
    forget_oldest(tmp_path / "missing", 0)
