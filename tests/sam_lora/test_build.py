"""The joined network: what starts as the base, what is trained, what an adapter may be loaded into."""

import dataclasses
import pickle
from pathlib import Path

import pytest
import torch

from sam_lora.adapter import Adapter, AdapterError, read_adapter, write_adapter
from sam_lora.build import attention_layers, build_sam_lora, load_base, write_zero_model
from sam_lora.interop import write_base
from sam_lora.networks import Sam, build_sam
from sam_lora.weights import WeightsError, file_digest, find_weights, load_tensors, tensors_digest

POINTS, LABELS = torch.tensor([[[[5.0, 6], [30, 28]]]]), torch.tensor([[[2, 3]]])


def image():
    return torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0)) * 255


def trained(**options):
    """A network whose adapter is not at its start."""
    network = build_sam_lora(image_size=64, **options)
    with torch.no_grad():
        for name, tensor in network.adapter_tensors().items():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(name))))
    return network


def save(network, path, **changes):
    write_adapter(path, Adapter(dataclasses.replace(network.spec, **changes), network.adapter_tensors()))
    return path


@torch.no_grad()
def test_the_adapted_network_starts_as_the_base_bit_for_bit():
    base = build_sam("vit_t", 64)
    base.load_state_dict(load_tensors(find_weights("vit_t")))
    every = build_sam_lora(image_size=64, targets=["q", "k", "v", "proj", "mlp"], decoder="lora")
    assert torch.equal(every.eval()(image(), POINTS, LABELS), base.eval()(image(), POINTS, LABELS))


def test_an_official_checkpoint_is_used_whole_and_only_lora_is_missing():
    network, official = build_sam_lora(image_size=64), load_tensors(find_weights("vit_t"))
    missing = network.load_state_dict(official, strict=False)
    assert missing.unexpected_keys == []
    assert all(".lora_" in name for name in missing.missing_keys)


def test_merged_equals_forward_with_plain_names():
    network = trained(targets=["q", "v", "proj", "mlp"], decoder="lora").eval()
    merged = network.merged()
    assert type(merged) is Sam
    assert set(merged.state_dict()) == set(build_sam("vit_t").state_dict())
    with torch.no_grad():
        expected, found = network(image(), POINTS, LABELS), merged(image(), POINTS, LABELS)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert not torch.equal(expected, build_sam_lora(image_size=64).eval()(image(), POINTS, LABELS))


@pytest.mark.parametrize("decoder", ["frozen", "lora", "full"])
def test_only_what_is_declared_gets_gradients_and_moves_buffers_included(decoder):
    network = build_sam_lora(image_size=64, decoder=decoder).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict(keep_vars=False).items()}
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        network(image(), POINTS, LABELS).sum().backward()
        optimizer.step()
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    declared = network.trainable_names()
    assert moved <= declared
    assert {name for name in declared if ".lora_b_" in name} <= moved
    assert {n for n, p in network.named_parameters() if p.grad is not None} <= declared
    assert any(n.startswith("mask_decoder.") for n in moved) == (decoder != "frozen")


def test_an_adapter_round_trip_changes_nothing(tmp_path):
    network = trained(rank=3, alpha=6, layers=[1, 9], decoder="full", labels={n: f"label {n}" for n in range(1, 13)})
    path = save(network, tmp_path / "a.safetensors")
    again = build_sam_lora(adapter=str(path))
    assert again.spec == network.spec
    assert torch.equal(again.eval()(image(), POINTS, LABELS), network.eval()(image(), POINTS, LABELS))


def test_lora_alone_is_small(tmp_path):
    assert save(build_sam_lora(), tmp_path / "a.safetensors").stat().st_size < 1e6
    assert sum(t.numel() for t in build_sam_lora().adapter_tensors().values()) == 29_696


def test_what_differs_from_the_adapter_is_refused_naming_both_sides(tmp_path):
    path = str(save(trained(labels={1: "spleen"}), tmp_path / "a.safetensors"))
    sentences = {
        "rank": (8, "was made for rank 4, this network has rank 8"),
        "alpha": (8, "was made for alpha 4.0, this network has alpha 8.0"),
        "targets": (["q"], r'was made for targets \["q", "v"\], this network has targets \["q"\]'),
        "layers": ([0, 1], r"was made for layers \[0, .* 9\], this network has layers \[0, 1\]"),
        "decoder": ("full", "was made for decoder frozen, this network has decoder full"),
        "image_size": (128, "was made for image_size 64, this network has image_size 128"),
        "labels": ({1: "liver"}, r'was made for labels {"1": "spleen"}, this network has labels {"1": "liver"}'),
        "intensity": ({"window": [40, 400]}, "was made for intensity .*percentiles.* has intensity .*window"),
    }
    for name, (value, sentence) in sentences.items():
        with pytest.raises(AdapterError, match=sentence):
            build_sam_lora(adapter=path, **{name: value})


def test_labels_join_where_they_agree_and_what_is_not_said_is_the_adapters(tmp_path):
    path = str(save(trained(labels={1: "spleen", 2: "liver"}, rank=2, layers=[8, 9]), tmp_path / "a.safetensors"))
    assert build_sam_lora(adapter=path, labels={1: "spleen"}).spec.labels == {1: "spleen", 2: "liver"}
    assert build_sam_lora(adapter=path, labels={3: "kidney"}).spec.labels == {1: "spleen", 2: "liver", 3: "kidney"}
    with pytest.raises(AdapterError, match=r"was made for layers \[8, 9\], this network has layers \[0, "):
        build_sam_lora(adapter=path, layers="all")


def test_another_base_is_refused(tmp_path):
    network = trained()
    path = save(network, tmp_path / "a.safetensors")
    other = load_tensors(find_weights("vit_t"))
    other["mask_decoder.iou_token.weight"] = other["mask_decoder.iou_token.weight"] + 1
    write_base(tmp_path / "other.safetensors", other, "vit_t")
    with pytest.raises(AdapterError, match="was made for base_digest sha256:.*, this network has base_digest sha256:"):
        build_sam_lora(adapter=str(path), weights=str(tmp_path / "other.safetensors"))
    with pytest.raises(AdapterError, match="was made for variant vit_b, this network has variant vit_t"):
        network.load_adapter(read_adapter(save(network, path, variant="vit_b")), path)


def test_broken_adapter_files_are_refused(tmp_path):
    good = save(trained(), tmp_path / "good.safetensors").read_bytes()
    files = {
        "cut": (good[:-100], "no readable safetensors file: it is cut short"),
        "flipped": (good[:-50] + bytes([good[-50] ^ 1]) + good[-49:], "its content does not match its seal"),
        "edited": (good.replace(b'\\"alpha\\": 4.0', b'\\"alpha\\": 9.0'), "its content does not match its seal"),
        "garbled": (good.replace(b'\\"alpha\\": 4.0', b'\\"alpah\\": 4.0'), "what it says of itself cannot be read"),
        "pickled": (pickle.dumps({"w": 1}), "a pickle is never read as an adapter"),
        "empty": (b"", "no readable safetensors file"),
    }
    for name, (content, sentence) in files.items():
        (tmp_path / f"{name}.safetensors").write_bytes(content)
        with pytest.raises(AdapterError, match=sentence):
            build_sam_lora(adapter=str(tmp_path / f"{name}.safetensors"))
    with pytest.raises(AdapterError, match="There is no adapter nowhere"):
        build_sam_lora(adapter="nowhere")


def test_a_file_whose_seal_was_checked_is_known_by_its_digest_and_any_other_is_checked(tmp_path, monkeypatch):
    path = save(trained(), tmp_path / "a.safetensors")
    good, digest = path.read_bytes(), file_digest(path, "sha256")
    assert read_adapter(path).digest == digest
    path.write_bytes(good[:-50] + bytes([good[-50] ^ 1]) + good[-49:])
    with pytest.raises(AdapterError, match="its content does not match its seal"):
        read_adapter(path, checked=digest)
    path.write_bytes(good)
    monkeypatch.setattr("sam_lora.adapter._seal", lambda *_: pytest.fail("its tensors are hashed again"))
    assert read_adapter(path, checked=digest).digest == digest


def test_what_is_hashed_is_what_is_used_though_the_file_is_exchanged_meanwhile(tmp_path, monkeypatch):
    path, other = save(trained(), tmp_path / "a.safetensors"), save(trained(rank=2), tmp_path / "b.safetensors")
    digest, read = file_digest(path, "sha256"), Path.read_bytes

    def read_and_exchange(self):
        content = read(self)
        other.replace(path)
        return content

    monkeypatch.setattr(Path, "read_bytes", read_and_exchange)
    adapter = read_adapter(path)
    assert (adapter.digest, adapter.spec.rank) == (digest, 4)
    assert file_digest(path, "sha256") != digest


def test_a_safetensors_file_of_something_else_is_no_adapter(tmp_path):
    from safetensors.torch import save_file

    save_file({"w_a_000": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(
        AdapterError, match="no adapter of SAM-LoRA: .*import.* takes in the formats of Sam_LoRA and SAMed"
    ):
        build_sam_lora(adapter=str(tmp_path / "other.safetensors"))


def test_another_format_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("sam_lora.adapter.FORMAT_VERSION", 9)
    path = save(trained(), tmp_path / "a.safetensors")
    monkeypatch.undo()
    with pytest.raises(AdapterError, match="has format version 9, this code reads versions 1 to 2: update the code"):
        read_adapter(path)


def test_missing_unknown_and_misshapen_tensors_are_refused(tmp_path):
    network = trained()
    tensors, path = network.adapter_tensors(), tmp_path / "a"
    name = sorted(tensors)[0]
    with pytest.raises(AdapterError, match=f"a lacks {name}"):
        network.load_adapter_tensors({k: v for k, v in tensors.items() if k != name}, path)
    with pytest.raises(AdapterError, match="a holds, and this network has no, extra"):
        network.load_adapter_tensors({**tensors, "extra": tensors[name]}, path)
    with pytest.raises(AdapterError, match=r"holds .* of shape \(1,\), this network's is"):
        network.load_adapter_tensors({**tensors, name: torch.zeros(1)}, path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"variant": "vit_x"}, "variant must be one of vit_b, vit_l, vit_h, medsam_vit_b, vit_t, got 'vit_x'"),
        ({"rank": 0}, "rank must be a whole number from 1 to 128, the smaller side of this layer, got 0"),
        ({"rank": 129}, "rank must be a whole number from 1 to 128, the smaller side of this layer, got 129"),
        ({"targets": []}, r"targets must be a list out of q, k, v, proj, mlp, got \[\]"),
        ({"targets": "q"}, "targets must be a list out of"),
        ({"targets": ["q", "w"]}, "targets must be a list out of"),
        ({"layers": [10]}, r'layers must be "all", "late" or a list of whole numbers from 0 to 9, got \[10\]'),
        ({"layers": 3}, 'layers must be "all", "late" or a list of whole numbers from 0 to 9, got 3'),
        ({"layers": "early"}, "layers must be .* got 'early'"),
        (
            {"layers": []},
            r"layers \[\] and decoder frozen leave nothing to train: give layers, decoder lora or full, or tokens",
        ),
        ({"alpha": 0}, "alpha must be above 0, got 0"),
        ({"decoder": "half"}, "decoder must be one of frozen, lora, full, got 'half'"),
        ({"image_size": 66}, "image_size must be a positive multiple of 4 for this encoder, got 66"),
        ({"weights": "nowhere.pth"}, "The weights of vit_t are missing: there is no nowhere.pth"),
    ],
)
def test_wrong_arguments_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_sam_lora(**options)


def test_missing_weights_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr("sam_lora.build.find_weights", lambda variant: find_weights(variant, tmp_path))
    with pytest.raises(
        WeightsError,
        match=r"The weights of vit_b are missing: .* `python scripts/weights.py get vit_b` .*--source FILE",
    ):
        build_sam_lora("vit_b")


def test_any_layers_of_either_encoder_can_be_chosen():
    network = build_sam_lora(image_size=64, layers=[9, 0, 0])
    adapted = {name.split(".attn")[0] for name in network.trainable_names()}
    assert adapted == {"image_encoder.layers.1.blocks.0", "image_encoder.layers.3.blocks.1"}
    assert attention_layers(build_sam("vit_b").image_encoder) == [f"blocks.{i}" for i in range(12)]


def test_the_zero_model_is_written_once(tmp_path):
    path = write_zero_model("vit_t", tmp_path)
    assert all(not tensor.any() for name, tensor in torch.load(path, weights_only=True).items() if "lora_b" in name)
    path.write_bytes(b"mine")
    assert write_zero_model("vit_t", tmp_path).read_bytes() == b"mine"


LABELLED = {"labels": {2: "tail", 1: "head"}, "tokens": True}


@torch.no_grad()
def test_label_tokens_start_as_a_box_around_the_whole_frame():
    network = build_sam_lora(image_size=64, **LABELLED).eval()
    assert network.spec.tokens == (1, 2)
    square = image()[..., :40]
    frame = network(square, torch.tensor([[[[0.0, 0], [40, 40]]]]), torch.tensor([[[2, 3]]]))
    for codes in ([4, 5], [6, 7]):
        by_token = network(square, torch.zeros(1, 1, 2, 2), torch.tensor([[codes]]))
        assert torch.allclose(by_token, frame, atol=1e-4)


def test_tokens_are_trained_saved_and_kept_in_the_merged_network(tmp_path):
    network = trained(**LABELLED)
    assert "prompt_encoder.label_tokens.weight" in network.trainable_names()
    loaded = build_sam_lora(adapter=str(save(network, tmp_path / "a.safetensors")))
    assert loaded.spec == network.spec
    points, codes = torch.zeros(1, 2, 2, 2), torch.tensor([[[4, 5], [6, 7]]])
    with torch.no_grad():
        expected = network.eval()(image(), points, codes)
        assert torch.equal(loaded.eval()(image(), points, codes), expected)
        assert not torch.allclose(expected[:, 0], expected[:, 1], atol=1e-2)  # each label has its own
        merged = network.merged()
        assert torch.allclose(merged(image(), points, codes), expected, atol=1e-3)
    assert (merged.tokens, merged.neighbours) == ((1, 2), False)


def test_tokens_stay_those_of_the_adapter_when_labels_join(tmp_path):
    path = str(save(trained(**LABELLED), tmp_path / "a.safetensors"))
    more = build_sam_lora(adapter=path, labels={0 + 3: "body"})
    assert more.spec.labels == {1: "head", 2: "tail", 3: "body"}
    assert more.spec.tokens == (1, 2)
    with pytest.raises(AdapterError, match="tokens are not wanted and the adapter has some: leave `--tokens` out"):
        build_sam_lora(adapter=path, tokens=False)
    with pytest.raises(ValueError, match="Label 'head' has the values 1, 3: with label tokens a name belongs to one"):
        build_sam_lora(adapter=path, labels={3: "head"})
    plain = str(save(trained(), tmp_path / "b.safetensors"))
    with pytest.raises(AdapterError, match="tokens are wanted and the adapter has none: train a new adapter"):
        build_sam_lora(adapter=plain, tokens=True, labels={1: "head"})
    with pytest.raises(ValueError, match="tokens belong to named labels: name them in the datalist"):
        build_sam_lora(image_size=64, tokens=True)


def test_an_adapter_of_the_first_format_still_loads(tmp_path, monkeypatch):
    import sam_lora.adapter as module

    network = trained()
    told = {k: v for k, v in network.spec.to_json().items() if k not in ("tokens", "neighbours")}
    monkeypatch.setattr(module, "FORMAT_VERSION", 1)
    monkeypatch.setattr(module.AdapterSpec, "to_json", lambda _: told)
    path = save(network, tmp_path / "old.safetensors")
    monkeypatch.undo()
    loaded = read_adapter(path)
    assert loaded.spec == network.spec
    assert (loaded.spec.tokens, loaded.spec.neighbours) == ((), False)


@pytest.mark.parametrize(
    "options", [{}, {"decoder": "full", "tokens": True, "labels": {1: "spleen"}}, {"decoder": "lora"}]
)
def test_a_network_on_a_base_in_memory_equals_one_that_was_read_and_leaves_the_base_alone(tmp_path, options):
    base = load_base("vit_t")
    before = tensors_digest(base.network.state_dict())
    path = tmp_path / "a.safetensors"
    network = trained(**options)
    write_adapter(path, Adapter(network.spec, network.adapter_tensors()))
    read = build_sam_lora(adapter=str(path)).merged().state_dict()
    shared = build_sam_lora(adapter=str(path), base_of=lambda _: base)
    assert shared.image_size == 64
    assert not {id(module) for module in shared.modules()} & {id(module) for module in base.network.modules()}
    with torch.no_grad():
        for tensor in shared.adapter_tensors().values():
            tensor.add_(1)  # as a training would
    assert tensors_digest(base.network.state_dict()) == before
    merged = build_sam_lora(adapter=str(path), base_of=lambda _: base).merged(copied=False)
    assert type(merged) is Sam
    assert merged.state_dict().keys() == read.keys()
    assert all(torch.equal(merged.state_dict()[name], tensor) for name, tensor in read.items())
    assert torch.equal(merged.encode(image()), build_sam_lora(adapter=str(path)).merged().encode(image()))
    kept = {tensor.data_ptr() for tensor in base.network.state_dict().values()}
    assert any(tensor.data_ptr() in kept for tensor in merged.state_dict().values())


def test_another_base_and_an_impossible_size_are_refused(tmp_path):
    base = dataclasses.replace(load_base("vit_t"), variant="vit_b")
    write_adapter(tmp_path / "a.safetensors", Adapter(trained().spec, trained().adapter_tensors()))
    with pytest.raises(AdapterError, match="The adapter is for the base vit_t, the one in memory is vit_b"):
        build_sam_lora(adapter=str(tmp_path / "a.safetensors"), base_of=lambda _: base)
    with pytest.raises(ValueError, match="image_size must be a positive multiple of"):
        load_base("vit_t").shared(65)
