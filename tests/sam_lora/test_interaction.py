"""Rounds of asking: what training shows the network, and what it answers."""

import numpy as np
import pytest
import torch

from sam_lora.build import build_sam_lora
from sam_lora.interaction import InteractiveInferer, corrected, true_iou


def batch(size=2):
    generator = torch.Generator().manual_seed(0)
    label = torch.zeros(size, 2, 20, 24)
    label[:, 0, 3:9, 4:12], label[:, 1, 12:18, 10:20] = 1, 1
    points = torch.tensor([[[[4.0, 3], [12, 9]], [[10, 12], [20, 18]]]]).expand(size, -1, -1, -1)
    point_labels = torch.tensor([[[2, 3], [2, 3]]]).expand(size, -1, -1)
    image = torch.rand(size, 3, 20, 24, generator=generator) * 255
    return image, {"points": points, "point_labels": point_labels, "label": label, "draw": torch.tensor([7] * size)}


def test_one_round_is_what_the_network_answers(toy_sam):
    image, prompts = batch()
    answer = InteractiveInferer()(image, toy_sam, **prompts)
    expected = toy_sam(image, prompts["points"], prompts["point_labels"])
    assert torch.equal(answer["logits"][:, :, 0], expected)
    assert (answer["logits"].shape, answer["iou"].shape) == ((2, 2, 1, 20, 24), (2, 2, 1))


def test_the_image_is_encoded_once_whatever_the_rounds(toy_sam):
    passes = []
    toy_sam.image_encoder.patch_embed.register_forward_hook(lambda *_: passes.append(1))
    rounds = set()
    for draw in range(12):
        image, prompts = batch(1)
        answer = InteractiveInferer(corrections=2)(image, toy_sam, **prompts | {"draw": torch.tensor([draw])})
        rounds.add(answer["logits"].shape[2])
    assert rounds == {1, 2, 3}
    assert len(passes) == 12


def test_the_same_draw_gives_the_same_rounds_and_another_gives_others(toy_sam):
    image, prompts = batch(1)
    inferer = InteractiveInferer(corrections=3)
    answers = [inferer(image, toy_sam, **prompts | {"draw": torch.tensor([d])})["logits"] for d in (1, 1, 2, 3, 4, 5)]
    assert torch.equal(answers[0], answers[1])
    assert any(a.shape != answers[0].shape or not torch.equal(a, answers[0]) for a in answers[2:])


@pytest.mark.parametrize("variant", ["vit_t", "toy"])
def test_bfloat16_on_a_cpu_answers_nearly_the_same_and_trains_the_same_way(toy_sam, variant):
    torch.manual_seed(0)
    network = toy_sam if variant == "toy" else build_sam_lora(variant="vit_t", weights=None, image_size=56)
    image, prompts = batch()
    answers, gradients = [], []
    for low in (False, True):
        answers.append(InteractiveInferer(cpu_bfloat16=low)(image, network, **prompts)["logits"])
        assert answers[-1].dtype == torch.float32
        trained = [p for p in network.image_encoder.parameters() if p.requires_grad]
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(answers[-1].sigmoid().mean(), trained)]))
    assert not torch.equal(*answers)
    assert (answers[1] - answers[0]).norm() < 0.02 * answers[0].norm()
    assert torch.cosine_similarity(*gradients, dim=0) > 0.98


@pytest.mark.parametrize("with_mask", [0.0, 1.0])
def test_corrective_rounds_see_the_last_logits_or_not(toy_sam, with_mask):
    seen = []
    decode = toy_sam.decode

    def spy(embedding, points, point_labels, size, mask=None, multimask=False):
        seen.append((points.shape[2], mask is not None))
        return decode(embedding, points, point_labels, size, mask, multimask)

    toy_sam.decode = spy
    image, prompts = batch(1)
    draw = next(d for d in range(99) if np.random.RandomState(d).randint(3) == 2)
    InteractiveInferer(corrections=2, with_mask=with_mask)(image, toy_sam, **prompts | {"draw": torch.tensor([draw])})
    assert seen == [(2, False), (3, with_mask == 1), (4, with_mask == 1)]


def test_clicks_fall_on_what_is_wrong_and_say_what_is_right():
    _, prompts = batch(1)
    label = prompts["label"]
    logits = torch.where(label > 0, 1.0, -1.0)
    logits[0, 0, 3:9, 4:12] = -1  # all of the first object missed
    logits[0, 1, 0:4, 0:4] = 1  # a leak of the second
    for seed in range(20):
        rng = np.random.RandomState(seed)
        points, labels = corrected(prompts["points"], prompts["point_labels"], logits, label, rng)
        (x, y), (u, v) = points[0, :, -1].tolist()
        assert labels[0, :, -1].tolist() == [1, 0]
        assert 4 < x < 12 and 3 < y < 9  # noqa: PT018
        assert 0 < u < 4 and 0 < v < 4  # noqa: PT018


def test_what_is_right_or_only_fills_the_batch_gets_no_click():
    _, prompts = batch(1)
    label = prompts["label"].clone()
    logits = torch.where(label > 0, 1.0, -1.0)
    label[0, 1] = -1
    logits[0, 1] = 1
    rng = np.random.RandomState(0)
    _, labels = corrected(prompts["points"], prompts["point_labels"], logits, label, rng)
    assert labels[0, :, -1].tolist() == [-2, -2]


def test_true_iou_of_masks_misses_and_empty_slices():
    label, logits = torch.zeros(4, 6, 6), -torch.ones(4, 6, 6)
    label[0, :2], logits[0, 1:3] = 1, 1  # a third in common
    label[1, :2] = 1  # missed
    logits[2, 0] = 1  # nothing there
    assert true_iou(logits, label).tolist() == pytest.approx([1 / 3, 0, 0, 1])
