"""An encoder cut in two is the encoder, wherever it is cut, with and without gradients."""

import pytest
import torch

from sam_lora.build import attention_layers, build_sam_lora
from sam_lora.networks import build_sam
from tests.conftest import randomize_zeros


@pytest.fixture(params=["toy", "vit_t"])
def sam(request, toy_sam):
    return toy_sam if request.param == "toy" else randomize_zeros(build_sam_lora(image_size=16)).eval()


def image():
    return torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0)) * 255


@torch.no_grad()
@pytest.mark.parametrize("name", ["toy_sam", "small_lora"])
def test_rest_of_trunk_is_the_whole_at_every_cut(name, request):
    sam = request.getfixturevalue(name)
    whole = sam.encode(image())
    assert sam.image_encoder.depth == len(attention_layers(sam.image_encoder))
    for cut in range(sam.image_encoder.depth + 2):
        assert torch.equal(sam.rest(sam.trunk(image(), cut), cut), whole)
    assert torch.equal(sam.trunk(image(), sam.image_encoder.depth + 1), whole)


@torch.no_grad()
def test_activations_may_come_back_in_another_memory_order(sam):
    stored = sam.trunk(image(), 1).clone(memory_format=torch.contiguous_format)
    assert torch.allclose(sam.rest(stored, 1), sam.encode(image()), atol=1e-5)


def test_the_trunk_reads_its_own_tensors_and_no_others(sam):
    encoder = sam.image_encoder
    sam.requires_grad_(True)
    for cut in range(encoder.depth + 2):
        sam.zero_grad()
        sam.trunk(image(), cut).square().sum().backward()
        read = {name for name, parameter in encoder.named_parameters() if parameter.grad is not None}
        own = encoder.trunk_tensors(cut)
        assert read == {name for name, tensor in own.items() if isinstance(tensor, torch.nn.Parameter)}
    assert encoder.trunk_tensors(encoder.depth + 1).keys() == encoder.state_dict().keys()


@pytest.mark.parametrize("cut", [0, 1])
def test_checkpointing_above_a_cut_changes_no_gradient(sam, cut):
    sam.requires_grad_(False)
    sam.image_encoder.get_submodule(sam.image_encoder.part_names[1][0]).requires_grad_(True)
    gradients = []
    for again in (False, True):
        sam.zero_grad()
        sam.image_encoder.gradient_checkpointing = again
        sam.rest(sam.trunk(image(), cut), cut).square().mean().backward()
        gradients.append([p.grad.clone() for p in sam.parameters() if p.grad is not None])
    assert gradients[0]
    for without, with_it in zip(*gradients, strict=True):
        assert torch.allclose(without, with_it, rtol=1e-4, atol=1e-6)


def test_only_blocks_that_are_recorded_are_computed_again(sam):
    encoder, runs = sam.image_encoder, []
    for number in range(encoder.depth):
        block = encoder.get_submodule(encoder.part_names[number][0])
        block.register_forward_pre_hook(lambda *_, number=number: runs.append(number))
    sam.requires_grad_(False)
    encoder.get_submodule(encoder.part_names[-2][0]).requires_grad_(True)
    encoder.gradient_checkpointing = True
    sam.encode(image()).sum().backward()
    assert runs == [*range(encoder.depth), encoder.depth - 1]


def test_a_cut_that_is_none_is_refused(toy_sam):
    with pytest.raises(ValueError, match="cut must be from 0 to 3, the number of this encoder's parts, got 4"):
        toy_sam.trunk(image(), 4)
    with pytest.raises(ValueError, match="got -1"):
        toy_sam.rest(toy_sam.trunk(image(), 0), -1)


def test_names_stay_the_official_ones():
    names = set(build_sam("vit_b").image_encoder.state_dict())
    assert {"neck.0.weight", "neck.3.bias", "blocks.11.mlp.lin2.bias", "patch_embed.proj.weight", "pos_embed"} <= names
