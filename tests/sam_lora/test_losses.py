"""The loss of a batch: objects, images, rounds, and the predicted IoU."""

import torch
from monai.losses import DiceCELoss

from sam_lora.losses import PerObjectLoss


def answer(batch=2, objects=3, rounds=2):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, objects, rounds, 8, 9, generator=generator)
    label = (torch.rand(batch, objects, 8, 9, generator=generator) > 0.5).float()
    return {"logits": logits, "iou": torch.rand(batch, objects, rounds, generator=generator)}, label


def part(given, n):
    return {name: tensor[n : n + 1] for name, tensor in given.items()}


def test_a_batch_of_two_is_the_mean_of_two_batches_of_one_whatever_their_objects():
    given, label = answer()
    label[1, 1:] = -1  # the second image has one object
    loss = PerObjectLoss(DiceCELoss(sigmoid=True, squared_pred=True), iou_weight=0.5)
    alone = [loss(part(given, n), label[n : n + 1]) for n in range(2)]
    assert torch.isclose(loss(given, label), sum(alone) / 2)
    fewer = {"logits": given["logits"][1:, :1], "iou": given["iou"][1:, :1]}
    assert torch.isclose(alone[1], loss(fewer, label[1:, :1]))


def test_every_round_weighs_alike():
    given, label = answer(batch=1)
    loss = PerObjectLoss(torch.nn.BCEWithLogitsLoss(), iou_weight=1.0)
    rounds = [loss({name: tensor[:, :, r : r + 1] for name, tensor in given.items()}, label) for r in range(2)]
    assert torch.isclose(loss(given, label), sum(rounds) / 2)


def test_the_predicted_iou_is_pulled_to_the_true_one():
    given, label = answer(batch=1, objects=1, rounds=1)
    given["logits"] = torch.where(label > 0, 1.0, -1.0)[:, :, None]
    for predicted, expected in ((1.0, 0.0), (0.25, 0.5625)):
        given["iou"] = torch.full((1, 1, 1), predicted)
        with_iou, without = (PerObjectLoss(torch.nn.BCEWithLogitsLoss(), w)(given, label) for w in (1.0, 0.0))
        assert torch.isclose(with_iou - without, torch.tensor(expected))


def test_images_without_an_object_that_counts_do_not_count():
    given, label = answer()
    loss = PerObjectLoss(torch.nn.BCEWithLogitsLoss())
    label[0] = -1
    assert torch.isclose(loss(given, label), loss(part(given, 1), label[1:]))
    given["logits"].requires_grad_(True)
    nothing = loss(part(given, 0), label[:1])
    nothing.backward()
    assert nothing == 0
    assert not given["logits"].grad.any()
