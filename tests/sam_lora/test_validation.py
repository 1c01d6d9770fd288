"""The metric that decides which adapter is best."""

import math

import torch

from sam_lora.validation import VolumeDice


def item(case, values, masks, truths):
    logits = torch.where(torch.tensor(masks, dtype=torch.bool), 1.0, -1.0)[:, None]
    sample = {"case": torch.tensor(case), "values": torch.tensor(values)}
    return sample, {"pred": {"logits": logits}, "label": torch.tensor(truths, dtype=torch.float32)}


def test_slices_add_up_to_volumes_in_any_order():
    full, empty = [[1, 1], [1, 1]], [[0, 0], [0, 0]]
    half = [[1, 1], [0, 0]]
    items = [
        item(0, [1, 2], [full, empty], [full, empty]),
        item(1, [1], [half], [full]),
        item(0, [1], [half], [empty]),  # found where there is nothing
    ]
    # label 1 of case 0: 2 * 4 / (4 + 2 + 4); label 2 of case 0: nothing on either side; label 1 of case 1: 2 * 2 / 6
    expected = (0.8 + 4 / 6) / 2
    for order in (items, items[::-1]):
        metric = VolumeDice()
        for one in order:
            metric.update(one)
        assert math.isclose(metric.compute(), expected)
    metric.reset()
    # a label of two parts, asked for twice: the first answer is its part, the second both parts
    metric.update(item(0, [1, 1], [half, full], [half, half[::-1]]))
    assert math.isclose(metric.compute(), 2 * (2 + 2) / (2 + 2 + 4 + 2))
    metric.reset()
    metric.update(item(0, [2], [empty], [empty]))
    assert math.isnan(metric.compute())
