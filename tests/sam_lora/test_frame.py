"""A slice in the network's frame: boxes and clicks there and back, drawn masks, and parts that go."""

import numpy as np
import pytest
import torch

from sam_lora.frame import DRAWN, OUTSIDE, Frame, without_clicked, without_islands

SIZES = [(64, 64), (30, 40), (100, 37), (512, 300), (5, 64)]


def frame_of(network, size):
    return Frame(network, size)


@pytest.mark.parametrize("size", SIZES)
def test_the_box_of_a_drawn_mask_comes_back_within_a_pixel_of_the_frame(toy_sam, size):
    frame = frame_of(toy_sam, size)
    height, width = size
    mask = np.zeros(size, bool)
    mask[height // 4 : height // 2 + 1, width // 3 : width // 2 + 1] = True
    found = frame.box_of(frame.logits_of(mask) > 0)
    expected = (width // 3, height // 4, width // 2 + 1, height // 2 + 1)
    tolerance = [0.51 / frame.scale[1] + 0.5, 0.51 / frame.scale[0] + 0.5] * 2
    assert (np.abs(np.subtract(found, expected)) <= tolerance).all()
    assert found[2] <= width
    assert found[3] <= height


@pytest.mark.parametrize("size", SIZES)
def test_a_pixel_in_the_frame_shows_the_pixel_of_the_slice(toy_sam, size):
    frame = frame_of(toy_sam, size)
    for y, x in ((0, 0), (size[0] - 1, size[1] - 1), (size[0] // 2, size[1] // 3)):
        row, column = frame.pixel_of((x + 0.5, y + 0.5, 0))
        assert row < frame.extent[0]
        assert column < frame.extent[1]
        assert abs((row + 0.5) / frame.scale[0] - (y + 0.5)) <= 0.5 / frame.scale[0] + 0.5
        assert abs((column + 0.5) / frame.scale[1] - (x + 0.5)) <= 0.5 / frame.scale[1] + 0.5


def test_a_drawn_mask_is_decoded_with_and_means_nothing_beside_the_slice(toy_sam):
    frame, embedding = Frame(toy_sam, (30, 40)), toy_sam.encode(torch.rand(1, 3, 30, 40) * 255)
    mask = frame.logits_of(np.ones((30, 40), bool))
    assert (mask[: frame.extent[0], : frame.extent[1]] == DRAWN).all()
    assert (mask[frame.extent[0] :] == -DRAWN).all()
    box = [(2.0, 3.0, 2), (30.0, 20.0, 3)]
    (with_mask, _), (without, iou) = frame.decode(embedding, [box, box], [mask, None])
    assert with_mask.untyped_storage().nbytes() == with_mask.nbytes
    assert not torch.equal(with_mask, without)
    assert iou.shape == ()
    expected = toy_sam.decode(embedding, torch.tensor([[[[2.0, 3], [30, 20]]]]), torch.tensor([[[2, 3]]]), (30, 40))
    assert torch.equal(without, expected[0][0, 0, 0].half())  # raw to its edges: what lies beside is upscaled with it
    assert not frame.mask_of(torch.ones(32, 32))[frame.extent[0] :].any()
    assert frame.mask_of(torch.ones(32, 32)).sum() == frame.extent[0] * frame.extent[1]


def test_a_line_thinner_than_a_pixel_of_the_frame_stays_a_line(toy_sam):
    mask = np.zeros((512, 512), bool)
    mask[100, 50:400] = True
    drawn = frame_of(toy_sam, (512, 512)).logits_of(mask) > 0
    assert drawn.any()
    assert drawn.any(1).sum() <= 2


def test_growing_is_a_distance_and_stays_on_the_slice(toy_sam):
    frame = frame_of(toy_sam, (30, 40))
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[2, 2] = True
    near = frame.grown(mask, 0.1)  # 3.2 pixels of the frame
    assert near[2, 5]
    assert not near[2, 6]
    assert not near[5, 5]
    assert not frame.grown(mask, 10.0)[frame.extent[0] :].any()


def test_islands_and_clicked_parts_go():
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[1:4, 1:4] = mask[7:10, 7:10] = True
    touched = torch.zeros(12, 12, dtype=torch.bool)
    touched[3, 3] = touched[11, 0] = True
    assert torch.equal(without_islands(mask, touched), mask & (torch.arange(12) < 5))
    assert not without_islands(mask, torch.zeros(12, 12, dtype=torch.bool)).any()
    logits = torch.where(mask, 3.0, -3.0)
    assert torch.equal(without_clicked(logits, [(0, 0)]), logits)
    left = without_clicked(logits, [(8, 8), (0, 11)])
    assert not (left[5:, 5:] > 0).any()
    assert torch.equal(left[:5, :5], logits[:5, :5])
    assert left[6, 6] == OUTSIDE  # the rim too: upscaled, it must not come back
