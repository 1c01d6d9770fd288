"""The mask decoder's shortcuts: what objects of one image share, and transposed convolutions as linear layers."""

import torch

from sam_lora.networks.mask_decoder import MaskDecoder


def decoder():
    torch.manual_seed(0)
    return MaskDecoder(channels=64).eval()


def inputs(objects=3, channels=64):
    return (
        torch.randn(2, channels, 4, 6),
        torch.randn(1, channels, 4, 6),
        torch.randn(2, objects, 2, channels),
        torch.ones(2, objects, 2, dtype=torch.bool),
    )


@torch.no_grad()
def test_objects_that_share_their_image_equal_objects_that_have_a_copy_each():
    network, (image, positions, sparse, is_token) = decoder(), inputs()
    projected = []
    layer = network.transformer.layers[0].cross_attn_token_to_image.k_proj
    layer.register_forward_hook(lambda _, arguments, __: projected.append(len(arguments[0])))
    dense = torch.randn(1, 1, 64, 1, 1)
    shared = network(image, positions, sparse, is_token, dense, True)
    copied = network(image, positions, sparse, is_token, dense.expand(-1, 3, -1, 4, 6), True)
    assert projected == [2, 6]
    for mine, theirs in zip(shared, copied, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_masks_are_those_of_the_transposed_convolutions():
    network, source, weights = decoder(), torch.randn(3, 4, 6, 64), torch.randn(3, 2, 8)
    upscaled = network.output_upscaling(source.permute(0, 3, 1, 2))
    expected = (weights @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])
    assert torch.allclose(network._masks(source, weights), expected, rtol=1e-4, atol=1e-5)
