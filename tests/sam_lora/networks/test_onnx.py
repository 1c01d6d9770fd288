"""The network with sizes as tensors equals the network with sizes as numbers."""

import pytest
import torch
from torch.nn import functional as F

from sam_lora.networks.onnx import Decoder, Encoder, resize_matrix, resized_size


def test_sizes_are_those_of_the_network(toy_sam):
    generator = torch.Generator().manual_seed(0)
    for image_size in (64, 256, 1000, 1024):
        toy_sam.image_size = image_size
        for size in torch.randint(1, 3000, (500, 2), generator=generator).tolist():
            assert resized_size(torch.tensor(size), image_size).tolist() == list(toy_sam.resized(size)), size


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("source", "target"), [(50, 64), (64, 64), (333, 64), (1, 9), (9, 1), (64, 63), (700, 2)])
def test_the_matrix_resizes_as_interpolate_does(source, target, antialias):
    line = torch.rand(1, 1, 1, source)
    matrix = resize_matrix(target + 3, source + 5, torch.tensor(target), torch.tensor(source), antialias)
    expected = F.interpolate(line, size=(1, target), mode="bilinear", antialias=antialias, align_corners=False)
    assert torch.allclose(matrix[:target, :source] @ line.flatten(), expected.flatten(), atol=1e-5)
    assert not matrix[target:].any()
    assert not matrix[:, source:].any()


@pytest.mark.parametrize("normalization", ["mean_std", "min_max"])
@pytest.mark.parametrize("size", [(50, 70), (200, 30), (64, 64), (1, 5)])
@torch.no_grad()
def test_the_encoder_is_the_networks(toy_sam, size, normalization):
    toy_sam.normalization = normalization
    image = torch.rand(1, 3, *size) * 200 + 20
    assert torch.allclose(Encoder(toy_sam)(image), toy_sam.encode(image), atol=1e-4)


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("has_mask", [False, True])
@torch.no_grad()
def test_the_decoder_is_the_networks(toy_sam, multimask, has_mask):
    size = (50, 70)
    embedding = toy_sam.encode(torch.rand(1, 3, *size) * 255)
    points, labels = torch.rand(1, 2, 6, 2) * 50, torch.tensor([[[1, 0, 2, 3, -1, -2], [1, 1, 0, -2, -2, -2]]])
    mask = torch.randn(1, 2, 32, 32) * 5
    low_res, iou = toy_sam.decode(embedding, points, labels, size, mask if has_mask else None, multimask)
    masks = toy_sam.upscale(low_res[0], size)[None]
    results = Decoder(toy_sam, multimask)(
        embedding, points, labels.float(), mask, torch.tensor([float(has_mask)]), torch.tensor(size).float()
    )
    for result, expected in zip(results, (masks, iou, low_res), strict=True):
        assert result.shape == expected.shape
        assert torch.allclose(result, expected, atol=1e-4)
