"""Rates by part and progress, and gradients before a step."""

import math
import types

import pytest
import torch
from torch import nn

from sam_lora.optimization import (
    GradientsReady,
    LearningRate,
    build_optimizer,
    is_step,
    parameter_groups,
    rate_factor,
)


def test_rates_rise_over_the_warm_up_and_fall_to_nothing():
    assert [rate_factor(0, step, 3, "none") for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    assert rate_factor(0.5, 9, 0, "cosine") == pytest.approx(0.5)
    assert rate_factor(0.5, 9, 0, "poly") == pytest.approx(0.5**0.9)
    for decay in ("cosine", "poly"):
        assert rate_factor(0, 9, 0, decay) == 1
        assert rate_factor(1, 9, 0, decay) == pytest.approx(0)
        assert rate_factor(1.2, 9, 0, decay) == pytest.approx(0)


def test_lora_and_whole_layers_have_rates_of_their_own(small_lora):
    assert [g["lr"] for g in parameter_groups(small_lora, 0.1, 0.01)] == [0.1]  # nothing but LoRA is trained
    small_lora.mask_decoder.requires_grad_(True)
    lora, others = parameter_groups(small_lora, 0.1, 0.01)
    assert (lora["lr"], others["lr"]) == (0.1, 0.01)
    assert sum(p.numel() for p in lora["params"]) == 29696
    assert len(others["params"]) == len(list(small_lora.mask_decoder.parameters()))
    small_lora.prompt_encoder.add_label_tokens(2, small_lora.image_size)
    lora, others = parameter_groups(small_lora, 0.1, 0.01)
    assert small_lora.prompt_encoder.label_tokens.weight in set(lora["params"])  # all begin as the same box
    assert len(others["params"]) == len(list(small_lora.mask_decoder.parameters()))


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "NAdam"])
def test_a_fused_step_is_the_same_step(name):
    torch.manual_seed(0)
    start, gradient = torch.randn(50), torch.randn(3, 50)
    ends = []
    for kind in (
        build_optimizer,
        lambda name, params, weight_decay: getattr(torch.optim, name)(params, weight_decay=weight_decay),
    ):
        weight = nn.Parameter(start.clone())
        optimizer = kind(name, [{"params": [weight], "lr": 0.1}], weight_decay=0.01)
        for one in gradient:
            weight.grad = one.clone()
            optimizer.step()
        ends.append(weight.detach())
        assert optimizer.param_groups[0]["weight_decay"] == 0.01
    torch.testing.assert_close(*ends)
    assert bool(build_optimizer(name, [{"params": [weight]}], 0).defaults.get("fused")) == (name != "NAdam")


def engine(**state):
    values = {"iteration": 1, "epoch_length": 10, "max_epochs": 2, "seconds": 0.0, "slices": 0, **state}
    return types.SimpleNamespace(state=types.SimpleNamespace(**values), accumulation_steps=4, scaler=None)


def test_progress_is_iterations_or_time_or_slices():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    LearningRate(optimizer, 0, "cosine", None)(engine(iteration=11))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1.0)
    optimizer.param_groups[0]["lr"] = 2.0
    for ends, state in (
        ({"minutes": 1}, {"seconds": 15}),
        ({"slices": 40}, {"slices": 10, "seconds": 99}),
        ({"minutes": 1, "slices": 40}, {"slices": 10, "seconds": 35}),  # a slow beginning changes nothing
        ({"minutes": 1, "slices": 40}, {"slices": 3, "seconds": 37.5}),  # the minutes will be over first
    ):
        optimizer.param_groups[0]["lr"] = 2.0
        LearningRate(optimizer, 0, "cosine", **ends)(engine(**state))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1 + math.sqrt(0.5)), ends
    with pytest.raises(ValueError, match="decay must be one of cosine, poly, none, got 'steps'"):
        LearningRate(optimizer, 0, "steps", None)


def test_a_step_ends_an_accumulation_or_an_epoch():
    assert [i for i in range(1, 21) if is_step(engine(iteration=i))] == [4, 8, 10, 14, 18, 20]


def test_gradients_are_clipped_together_before_a_step_only():
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1)
    ready = GradientsReady(layer, optimizer, max_norm=0.5)
    for iteration, expected in ((3, math.sqrt(8 * 9)), (4, 0.5)):
        for parameter in layer.parameters():
            parameter.grad = torch.full_like(parameter, 3)
        ready(engine(iteration=iteration))
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in layer.parameters()))
        assert norm == pytest.approx(expected, rel=1e-4)


def test_the_direction_of_clipped_gradients_stays():
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    holder = nn.Module()
    holder.weight = weight
    GradientsReady(holder, torch.optim.SGD([weight], lr=1), max_norm=1.0)(engine(iteration=4))
    assert torch.allclose(weight.grad, torch.tensor([0.6, 0.8]), atol=1e-4)
