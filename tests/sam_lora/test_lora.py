"""Laws of low-rank adaptation, on both encoders' layouts."""

import copy

import pytest
import torch
from torch import nn

from sam_lora.lora import LoRALinear, inject_lora, lora_parameter_names, merge_lora
from sam_lora.networks.image_encoder import Attention as SamAttention
from sam_lora.networks.tiny_vit import Attention as TinyAttention


def adapted(attention, targets=("q", "v"), rank=2, alpha=4.0, filled=True):
    torch.manual_seed(1)
    inject_lora(attention, "qkv", {t: attention.qkv_rows(t) for t in targets}, rank, alpha)
    if filled:
        for name, parameter in attention.named_parameters():
            if "lora_b" in name:
                nn.init.normal_(parameter)
    return attention


@pytest.fixture(params=["sam", "tiny"])
def attention(request):
    torch.manual_seed(0)
    return SamAttention(16, 4, 5, 5) if request.param == "sam" else TinyAttention(16, 4, 5)


def qkv(attention, x):
    """q, k and v as attention reads them, heads and channels flattened."""
    y = attention.qkv(x)
    heads = attention.num_heads
    if isinstance(attention, SamAttention):
        q, k, v = y.unflatten(-1, (3, heads, -1)).unbind(-3)
    else:
        q, k, v = y.unflatten(-1, (heads, 3, -1)).unbind(-2)
    return {"q": q.flatten(-2), "k": k.flatten(-2), "v": v.flatten(-2)}


@pytest.mark.parametrize("grad", [True, False])
def test_an_adapted_layer_starts_as_its_base_bit_for_bit(attention, grad):
    x = torch.randn(3, 7, 16)
    before = attention.qkv(x)
    adapted(attention, filled=False)
    with torch.set_grad_enabled(grad):
        assert torch.equal(attention.qkv(x), before)


@pytest.mark.parametrize("target", ["q", "k", "v"])
def test_each_part_writes_its_own_columns_only(attention, target):
    x = torch.randn(3, 7, 16)
    before = qkv(attention, x)
    after = qkv(adapted(attention, (target,)), x)
    for part in "qkv":
        assert torch.equal(before[part], after[part]) == (part != target)


def test_the_update_is_b_times_a_scaled_by_alpha_over_rank(attention):
    x = torch.randn(3, 16)
    before = qkv(attention, x)["v"]
    layer = adapted(attention).qkv
    update = 2.0 * x @ layer.lora_a_v.T @ layer.lora_b_v.T  # alpha 4, rank 2
    assert torch.allclose(qkv(attention, x)["v"], before + update, atol=1e-5)


def test_merged_equals_forward_and_has_no_trace_of_lora(attention):
    x = torch.randn(3, 7, 16)
    expected = adapted(attention).qkv(x)
    merged = copy.deepcopy(attention)
    merge_lora(merged)
    assert type(merged.qkv) is nn.Linear
    assert {n for n, _ in merged.named_parameters() if "lora" in n} == set()
    assert torch.allclose(merged.qkv(x), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(attention.qkv(x), merged.qkv(x))  # without gradients the same product is computed


def test_keys_stay_and_only_lora_is_added(attention):
    before = set(attention.state_dict())
    after = set(adapted(attention).state_dict())
    assert after - before == {f"qkv.lora_{x}_{part}" for x in "ab" for part in "qv"} == lora_parameter_names(attention)
    assert before <= after


def test_a_plain_layer_takes_one_part_over_all_rows():
    network = nn.Sequential(nn.Linear(6, 4))
    inject_lora(network, "0", {"proj": None}, rank=3, alpha=3)
    nn.init.normal_(network[0].lora_b_proj)
    x = torch.randn(5, 6)
    assert torch.allclose(network(x), network[0].merged()(x), atol=1e-5)


@pytest.mark.parametrize("rank", [0, -1, 5, 2.5, True])
def test_a_rank_that_does_not_fit_is_refused(rank):
    with pytest.raises(
        ValueError, match=f"rank must be a whole number from 1 to 4, the smaller side of this layer, got {rank}"
    ):
        LoRALinear(nn.Linear(6, 4), {"proj": None}, rank, 1.0)


def test_a_layer_is_adapted_once():
    network = nn.Sequential(nn.Linear(6, 4))
    inject_lora(network, "0", {"proj": None}, 1, 1)
    with pytest.raises(ValueError, match="0 must be a plain linear layer to be adapted, it is a LoRALinear"):
        inject_lora(network, "0", {"proj": None}, 1, 1)
