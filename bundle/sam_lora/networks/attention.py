"""Attention with SAM's decomposed relative positions, never with a score matrix of all queries and keys in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sam_lora.networks.layers import wants_grad

FORWARD, BACKWARD = 4 << 20, 1 << 20  # scores per step on a CPU, 16 and 4 MB: half and four times as many were slower
MANY_KEYS = 1024  # without gradients, fewer keys than that are attended to fastest in one call


def attend(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """Attention whose bias of query q and key (y, x) is ``rel_h[q, y] + rel_w[q, x]``.

    That is a dot product of ``[rel_h, rel_w]`` with two one-hot vectors, so appending those to query and key makes it
    plain attention, exactly. The values are padded to the longer width because fused kernels want equal widths. A CPU
    gains nothing by one large call, and is faster with the bias of a few queries at a time.

    Args:
        q: queries ``(B, heads, h * w, d)``; k and v have the same shape, keys in row-major order.
        k: keys.
        v: values.
        rel_h: ``(B, heads, h * w, h)``, the query's affinity to each key row.
        rel_w: ``(B, heads, h * w, w)``, the query's affinity to each key column.

    Returns:
        ``(B, heads, h * w, d)``.
    """
    height, width, channels = rel_h.shape[-1], rel_w.shape[-1], q.shape[-1]
    in_steps = q.device.type == "cpu" and (height * width > MANY_KEYS or wants_grad(q, k, v, rel_h, rel_w))
    if in_steps and not torch.compiler.is_compiling():  # torch.export would unroll the loop
        return _AttendInSteps.apply(q, k, v, rel_h, rel_w)
    rows = torch.eye(height, dtype=q.dtype, device=q.device).repeat_interleave(width, 0)
    columns = torch.eye(width, dtype=q.dtype, device=q.device).repeat(height, 1)
    one_hot = torch.cat([rows, columns], -1).expand(*k.shape[:2], -1, -1)
    query = torch.cat([q * channels**-0.5, rel_h, rel_w], -1)
    key = torch.cat([k, one_hot], -1)
    return F.scaled_dot_product_attention(query, key, F.pad(v, (0, height + width)), scale=1.0)[..., :channels]


def attend_with_bias(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention over few keys with a bias that is the same for every image.

    Args:
        q: queries ``(B, heads, N, d)``; k and v have the same shape.
        k: keys.
        v: values.
        bias: ``(1, heads, N, N)``, added to the scores.

    Returns:
        ``(B, heads, N, d)``.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and wants_grad(q, k, v, bias):
        # The fused kernel's backward pass takes several times as long in bfloat16 as plain products do.
        weights = (torch.matmul(q * q.shape[-1] ** -0.5, k.mT) + bias).softmax(-1).to(v.dtype)
        return torch.matmul(weights, v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


class _AttendInSteps(torch.autograd.Function):
    """:func:`attend` by steps that fit into a CPU's cache; the backward pass computes each step's scores again.

    Dao et al., "FlashAttention" (2022), section 3.1: with ``D = sum(dO * O)`` the gradient of the scores is
    ``P * (dO V^T - D)``. It is the gradient of the bias too, which fused kernels do not hand out.
    """

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        """Take and return what :func:`attend` does."""
        q, k, v, rel_h, rel_w = (t.flatten(0, 1) for t in tensors)
        out = torch.empty_like(q)
        for some, part in _steps(q, FORWARD):
            bias = _bias(rel_h[part], rel_w[part])
            out[part] = F.scaled_dot_product_attention(q[part][None], k[some][None], v[some][None], bias[None])[0]
        ctx.save_for_backward(*tensors, out)
        return out.unflatten(0, tensors[0].shape[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        """Gradients of all five, in float32 inside, whatever the precision outside."""
        *tensors, out = ctx.saved_tensors
        q, k, v, rel_h, rel_w = (t.flatten(0, 1).float() for t in tensors)
        grad, out = grad.flatten(0, 1).float(), out.float()
        grad_q, grad_h, grad_w = (torch.empty_like(t) for t in (q, rel_h, rel_w))
        grad_k, grad_v = torch.zeros_like(k), torch.zeros_like(v)
        scale = q.shape[-1] ** -0.5
        for some, part in _steps(q, BACKWARD):
            query, grad_out = q[part] * scale, grad[part]
            weights = _bias(rel_h[part], rel_w[part]).baddbmm_(query, k[some].mT).softmax(-1)
            grad_v[some].baddbmm_(weights.mT, grad_out)
            drift = (grad_out * out[part]).sum(-1, keepdim=True)
            grad_scores = torch.bmm(grad_out, v[some].mT).sub_(drift).mul_(weights)
            grad_q[part] = torch.bmm(grad_scores, k[some]).mul_(scale)
            grad_k[some].baddbmm_(grad_scores.mT, query)
            grid = grad_scores.unflatten(-1, (rel_h.shape[-1], rel_w.shape[-1]))
            grad_h[part], grad_w[part] = grid.sum(-1), grid.sum(-2)
        grads = (grad_q, grad_k, grad_v, grad_h, grad_w)
        return tuple(g.unflatten(0, t.shape[:2]).to(t.dtype) for g, t in zip(grads, tensors, strict=True))


def _steps(q: Tensor, scores: int) -> Iterator[tuple[slice, tuple[slice, slice]]]:
    """Which heads, and which of them with which queries, are computed together.

    Args:
        q: ``(B * heads, queries, d)``; there are as many keys.
        scores: about how many in a step.
    """
    heads, queries, _ = q.shape
    rows = min(queries, max(1, scores // queries))
    together = max(1, scores // (rows * queries))
    for head in range(0, heads, together):
        some = slice(head, head + together)
        for row in range(0, queries, rows):
            yield some, (some, slice(row, row + rows))


def _bias(rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """``(heads, queries, h)`` and ``(heads, queries, w)`` -> ``(heads, queries, h * w)``, a new tensor."""
    return (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2)
