"""Files of Sam_LoRA and SAMed come in and go out unchanged."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from sam_lora.adapter import AdapterError, read_adapter, write_adapter
from sam_lora.build import build_sam_lora
from sam_lora.interop import export_adapter, import_adapter, import_base, merge_adapter, write_base
from sam_lora.networks import build_sam
from sam_lora.weights import WeightsError, find_weights, load_tensors


def positional(rank=4, layers=12, width=768):
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for number in range(2 * layers):
        tensors[f"w_a_{number:03d}"] = torch.randn(rank, width, generator=generator)
        tensors[f"w_b_{number:03d}"] = torch.randn(width, rank, generator=generator)
    return tensors


def test_even_numbers_are_q_and_odd_ones_v(tmp_path):
    tensors = positional()
    save_file(tensors, tmp_path / "lora.safetensors")
    adapter = import_adapter(tmp_path / "lora.safetensors", "vit_b")
    assert torch.equal(adapter.tensors["image_encoder.blocks.3.attn.qkv.lora_a_q"], tensors["w_a_006"])
    assert torch.equal(adapter.tensors["image_encoder.blocks.3.attn.qkv.lora_b_v"], tensors["w_b_007"])
    assert (adapter.spec.rank, adapter.spec.alpha, adapter.spec.base_digest) == (4, 4.0, None)


def test_the_real_file_of_sam_lora_comes_in_goes_out_and_comes_in_again_unchanged(data_dir, tmp_path):
    source = data_dir / "interop" / "mathieunlp_sam_lora_rank4.safetensors"
    first = import_adapter(source, "vit_b")
    assert len(first.tensors) == 48
    write_adapter(tmp_path / "ours.safetensors", first)
    export_adapter(read_adapter(tmp_path / "ours.safetensors"), tmp_path / "theirs.safetensors")
    before, after = load_file(source), load_file(tmp_path / "theirs.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    second = import_adapter(tmp_path / "theirs.safetensors", "vit_b")
    assert second.spec == first.spec
    assert all(torch.equal(second.tensors[name], tensor) for name, tensor in first.tensors.items())


def test_an_imported_adapter_changes_a_real_size_network(tmp_path):
    write_base(tmp_path / "base.safetensors", build_sam("vit_b").state_dict(), "vit_b")
    save_file(positional(rank=2), tmp_path / "lora.safetensors")
    write_adapter(tmp_path / "a.safetensors", import_adapter(tmp_path / "lora.safetensors", "vit_b", image_size=64))
    network = build_sam_lora(adapter=str(tmp_path / "a.safetensors"), weights=str(tmp_path / "base.safetensors"))
    layer = network.image_encoder.blocks[0].attn.qkv
    x, tensors = torch.randn(5, 768), positional(rank=2)
    expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
    expected[:, :768] += x @ tensors["w_a_000"].T @ tensors["w_b_000"].T
    expected[:, 1536:] += x @ tensors["w_a_001"].T @ tensors["w_b_001"].T
    assert torch.allclose(layer(x), expected, atol=1e-3)


def test_samed_files_bring_their_decoder(tmp_path):
    decoder = {
        n: p for n, p in build_sam("vit_b").state_dict().items() if n.startswith(("prompt_encoder", "mask_decoder"))
    }
    torch.save(positional() | decoder, tmp_path / "samed.pth")
    adapter = import_adapter(tmp_path / "samed.pth", "vit_b", image_size=512)
    assert (adapter.spec.decoder, adapter.spec.image_size) == ("full", 512)
    assert torch.equal(adapter.tensors["mask_decoder.iou_token.weight"], decoder["mask_decoder.iou_token.weight"])


def test_a_decoder_with_one_mask_per_class_is_refused_or_left_out(tmp_path):
    decoder = {
        n: p for n, p in build_sam("vit_b").state_dict().items() if n.startswith(("prompt_encoder", "mask_decoder"))
    }
    decoder["mask_decoder.mask_tokens.weight"] = torch.zeros(9, 256)
    torch.save(positional() | decoder, tmp_path / "samed.pth")
    with pytest.raises(
        AdapterError, match=r"mask_tokens.weight of .* must have shape \(4, 256\), it is \(9, 256\): SAMed gives"
    ):
        import_adapter(tmp_path / "samed.pth", "vit_b")
    assert import_adapter(tmp_path / "samed.pth", "vit_b", lora_only=True).spec.decoder == "frozen"


def test_files_that_do_not_fit_are_refused(tmp_path):
    def refused(tensors, sentence):
        save_file(tensors, tmp_path / "x.safetensors")
        with pytest.raises(AdapterError, match=sentence):
            import_adapter(tmp_path / "x.safetensors", "vit_b")

    refused({"a": torch.zeros(1)}, "has no tensors named w_a_000, w_b_000")
    refused(positional(layers=11), "has 22 pairs of LoRA matrices, vit_b takes 24")
    wrong = positional()
    wrong["w_b_005"] = torch.zeros(4, 768)
    refused(wrong, r"w_b_005 of .* must have shape \(768, 4\) for vit_b, it is \(4, 768\)")
    del wrong["w_b_005"]
    refused(wrong, "w_b_005 of .* it is missing")


def test_what_that_format_cannot_say_is_not_exported(tmp_path):
    for options, sentence in (({"alpha": 8}, "alpha 8, rank 4"), ({"targets": ["q"]}, "targets q,"),
                              ({"layers": [0]}, "holds all 10 layers"), ({"decoder": "lora"}, "decoder lora")):  # fmt: skip
        network = build_sam_lora(image_size=64, **options)
        adapter = read_adapter(_written(network, tmp_path / "a.safetensors"))
        with pytest.raises(AdapterError, match=sentence):
            export_adapter(adapter, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def _written(network, path):
    from sam_lora.adapter import Adapter

    write_adapter(path, Adapter(network.spec, network.adapter_tensors()))
    return path


def test_a_checkpoint_of_multi_gpu_training_becomes_a_base(tmp_path):
    tensors = {f"module.{n}": t for n, t in load_tensors(find_weights("vit_t")).items()}
    torch.save({"model": tensors, "epoch": 3}, tmp_path / "mine.pth")
    import_base(tmp_path / "mine.pth", "vit_t", tmp_path / "mine.safetensors")
    network = build_sam_lora(image_size=64, weights=str(tmp_path / "mine.safetensors"))
    assert network.spec.base_digest == build_sam_lora(image_size=64).spec.base_digest
    with pytest.raises(WeightsError, match="these are not weights of vit_b"):
        import_base(tmp_path / "mine.pth", "vit_b", tmp_path / "b.safetensors")


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_a_merged_adapter_is_plain_full_weights(tmp_path, ending, caplog):
    network = build_sam_lora(image_size=64, labels={1: "bar"}, tokens=True).eval()
    with torch.no_grad():
        for tensor in network.adapter_tensors().values():
            tensor.add_(0.02)
    merge_adapter(_written(network, tmp_path / "a.safetensors"), tmp_path / f"merged.{ending}")
    assert "The tokens of 1 labels stay behind: this format has no place for them" in caplog.text
    plain = build_sam("vit_t", 64).eval()
    plain.load_state_dict(load_tensors(tmp_path / f"merged.{ending}"))
    image = torch.rand(1, 3, 40, 40) * 255
    with torch.no_grad():
        assert torch.allclose(plain(image), network(image), atol=1e-4)
    with pytest.raises(ValueError, match="output must end in .safetensors, .pt or .pth"):
        merge_adapter(tmp_path / "a.safetensors", tmp_path / "merged.bin")
