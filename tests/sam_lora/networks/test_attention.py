"""Attention with relative positions: plain softmax of scores and biases, its gradients, whatever the way of computing."""

import pytest
import torch

from sam_lora.networks import attention
from sam_lora.networks.attention import attend, attend_with_bias


def inputs(batch=2, heads=3, height=3, width=4, channels=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, heads, height * width, n) for n in (channels, channels, channels, height, width)]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def plain(q, k, v, rel_h, rel_w):
    bias = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2)
    return (q @ k.mT * q.shape[-1] ** -0.5 + bias).softmax(-1) @ v


@pytest.fixture(params=[1, 40, 300, 1 << 20], ids="scores {} a step".format)
def steps(request, monkeypatch):
    """One query, a few, a few heads, everything at once."""
    monkeypatch.setattr(attention, "FORWARD", request.param)
    monkeypatch.setattr(attention, "BACKWARD", request.param)


def test_output_and_all_gradients_are_those_of_plain_attention(steps):
    tensors = inputs()
    weight = torch.randn_like(tensors[0])
    found, expected = attend(*tensors), plain(*tensors)
    assert torch.allclose(found, expected)
    for mine, theirs in zip(
        torch.autograd.grad((found * weight).sum(), tensors),
        torch.autograd.grad((expected * weight).sum(), tensors),
        strict=True,
    ):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5)  # float32 inside


@torch.no_grad()
def test_few_and_many_keys_without_gradients(steps, monkeypatch):
    tensors = inputs()
    assert torch.allclose(attend(*tensors), plain(*tensors))
    monkeypatch.setattr(attention, "MANY_KEYS", 1)
    assert torch.allclose(attend(*tensors), plain(*tensors))


def test_bfloat16_gradients_are_summed_in_float32():
    tensors = inputs(dtype=torch.bfloat16)
    exact = [tensor.detach().float().requires_grad_() for tensor in tensors]
    expected = torch.autograd.grad(plain(*exact).square().sum(), exact)
    for mine, theirs in zip(torch.autograd.grad(attend(*tensors).square().sum(), tensors), expected, strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine - theirs).norm() / theirs.norm() < 0.02


def test_part_of_the_gradients_may_be_wanted_alone():
    q, *others = inputs()
    attend(q, *(t.detach() for t in others)).sum().backward()
    assert q.grad is not None


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.bfloat16, 0.03)])
def test_one_bias_for_every_image_and_its_gradients_in_either_precision(dtype, error):
    torch.manual_seed(0)
    q, k, v, _, _ = inputs()
    bias = torch.randn(1, q.shape[1], q.shape[2], q.shape[2], dtype=q.dtype).requires_grad_()
    expected = (q @ k.mT * q.shape[-1] ** -0.5 + bias).softmax(-1) @ v
    low = [t.detach().to(dtype).requires_grad_() for t in (q, k, v, bias)]
    found = attend_with_bias(*low)
    assert found.dtype == dtype
    for mine, theirs in zip(
        [found, *torch.autograd.grad(found.sin().sum(), low)],
        [expected, *torch.autograd.grad(expected.sin().sum(), (q, k, v, bias))],
        strict=True,
    ):
        assert (mine.double() - theirs).norm() <= error * theirs.norm()


def test_the_fused_kernel_never_sees_bfloat16_that_it_would_have_to_go_back_through(monkeypatch):
    q, k, v, _, _ = inputs(dtype=torch.bfloat16)
    bias = torch.zeros(1, q.shape[1], q.shape[2], q.shape[2], dtype=q.dtype)
    fused, seen = attention.F.scaled_dot_product_attention, []
    monkeypatch.setattr(
        attention.F, "scaled_dot_product_attention", lambda *a, **k: (seen.append(1), fused(*a, **k))[1]
    )
    attend_with_bias(q, k, v, bias).sum().backward()
    assert not seen
    with torch.no_grad():
        attend_with_bias(q, k, v, bias)
    assert seen
