"""The adapted network: what of it is trained, and what its files hold."""

import torch

from sam_lora.adapted import report_trainable, write_model
from sam_lora.build import build_sam_lora
from sam_lora.networks.image_encoder import ImageEncoder
from tests.sam_lora.test_build import LABELS, POINTS, image, save, trained


def test_the_cut_is_the_first_part_that_is_trained(tmp_path):
    cuts = {"all": 0, "late": 8, (3, 9): 3, (): 11}
    for layers, cut in cuts.items():
        network = build_sam_lora(image_size=64, layers=layers, decoder="full")
        assert network.cut == cut
        assert not any(tensor.requires_grad for tensor in network.image_encoder.trunk_tensors(cut).values())
    path = save(network, tmp_path / "a.safetensors")
    assert build_sam_lora(adapter=str(path)).spec.layers == ()
    assert build_sam_lora(image_size=64, layers="late").spec.layers == (8, 9)
    assert {depth: ImageEncoder(8, depth, 1, ()).late for depth in (2, 12, 32)} == {2: 1, 12: 3, 32: 8}


def test_the_report_counts_what_is_trained():
    report = report_trainable(build_sam_lora(image_size=64))
    assert "image_encoder        29,696 of    5,756,436 trainable (0.52%)" in report
    assert "total                29,696 of    9,820,996 trainable (0.30%)" in report


def test_model_pt_holds_the_trained_tensors_for_non_strict_loaders(tmp_path):
    network = trained(decoder="full")
    write_model(network, tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    other = build_sam_lora(image_size=64, decoder="full")
    assert other.load_state_dict(state, strict=False).unexpected_keys == []
    assert torch.equal(other.eval()(image(), POINTS, LABELS), network.eval()(image(), POINTS, LABELS))
