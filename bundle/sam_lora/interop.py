"""Adapters and checkpoints of others: Sam_LoRA and SAMed files in and out, full checkpoints sealed as base weights.

Sam_LoRA (github.com/MathieuNlp/Sam_LoRA) and SAMed (github.com/hitachinsk/SAMed) store the A and B matrices of ViT
blocks by position: ``w_a_000``, ``w_b_000`` and so on, for each adapted block first q, then v. They say nothing about
alpha (the update is not scaled), the base or the data. SAMed adds the tensors of prompt encoder and mask decoder.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sam_lora.adapter import Adapter, AdapterError, AdapterSpec
from sam_lora.build import attention_layers, build_sam_lora
from sam_lora.files import write_aside
from sam_lora.networks import build_sam, look_up_variant
from sam_lora.weights import BASE_FORMAT, WeightsError, load_tensors, tensors_digest

logger = logging.getLogger(__name__)

PARTS = ("q", "v")  # of each layer, in this order
_DECODER = ("prompt_encoder.", "mask_decoder.")


def is_positional(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors are named by position, as Sam_LoRA and SAMed do."""
    return any(re.fullmatch(r"w_[ab]_\d{3}", name) for name in tensors)


def import_adapter(path: Path, variant: str, image_size: int | None = None, lora_only: bool = False) -> Adapter:
    """Read a Sam_LoRA or SAMed file as an adapter.

    Args:
        path: .safetensors, or a torch file that holds tensors only.
        variant: the base it was trained on; the file does not say.
        image_size: pixels a side it was trained at; None for the variant's own (SAMed: 512).
        lora_only: leave out decoder tensors, for files whose decoder makes another number of masks.

    Returns:
        The adapter; its base digest is unknown, so its variant is all that loading can compare.

    Raises:
        AdapterError: if tensors are missing, or do not fit the variant.
        WeightsError: if the file cannot be read.
    """
    row = look_up_variant(variant)
    tensors = load_tensors(path)
    if not is_positional(tensors):
        raise AdapterError(f"{path} has no tensors named w_a_000, w_b_000, ...: it is no adapter of Sam_LoRA or SAMed.")
    encoder = build_sam(variant).image_encoder
    blocks = attention_layers(encoder)
    count = sum(name.startswith("w_a_") for name in tensors)
    if count != len(PARTS) * len(blocks):
        raise AdapterError(
            f"{path} has {count} pairs of LoRA matrices, {variant} takes {len(PARTS) * len(blocks)}: q and v of "
            f"{len(blocks)} layers."
        )
    found: dict[str, Tensor] = {}
    rank = len(tensors["w_a_000"])
    for number in range(count):
        layer, part = blocks[number // len(PARTS)], PARTS[number % len(PARTS)]
        out_features, in_features = encoder.get_parameter(f"{layer}.attn.qkv.weight").shape
        wanted = {"a": (rank, in_features), "b": (out_features // 3, rank)}
        for letter, shape in wanted.items():
            name = f"w_{letter}_{number:03d}"
            if name not in tensors or tuple(tensors[name].shape) != shape:
                shown = tuple(tensors[name].shape) if name in tensors else "missing"
                raise AdapterError(f"{name} of {path} must have shape {shape} for {variant}, it is {shown}.")
            found[f"image_encoder.{layer}.attn.qkv.lora_{letter}_{part}"] = tensors[name]
    decoder = {} if lora_only else _decoder_tensors(tensors, variant, path)
    return Adapter(
        AdapterSpec(
            variant=variant,
            base_digest=None,
            rank=rank,
            alpha=float(rank),
            targets=PARTS,
            layers=tuple(range(len(blocks))),
            decoder="full" if decoder else "frozen",
            image_size=row.image_size if image_size is None else image_size,
        ),
        found | decoder,
    )


def _decoder_tensors(tensors: Mapping[str, Tensor], variant: str, path: Path) -> dict[str, Tensor]:
    given = {name: tensor for name, tensor in tensors.items() if name.startswith(_DECODER)}
    if not given:
        return {}
    wanted = {n: p.shape for n, p in build_sam(variant).named_parameters() if n.startswith(_DECODER)}
    for name, shape in wanted.items():
        if name not in given or given[name].shape != shape:
            shown = tuple(given[name].shape) if name in given else "missing"
            raise AdapterError(
                f"{name} of {path} must have shape {tuple(shape)}, it is {shown}: SAMed gives its decoder one mask per "
                f"class, SAM has four. `--lora_only` takes in the LoRA matrices alone."
            )
    return {name: given[name] for name in wanted}


def export_adapter(adapter: Adapter, path: Path) -> None:
    """Write an adapter under the positional names of Sam_LoRA, as .safetensors.

    Raises:
        AdapterError: if it is not q and v of all layers with a scale of 1, which is all that format can say.
    """
    spec = adapter.spec
    if spec.targets != PARTS or spec.alpha != spec.rank or spec.decoder == "lora":
        raise AdapterError(
            f"The format of Sam_LoRA holds q and v with alpha equal to the rank, and no LoRA in the decoder; this "
            f"adapter has targets {', '.join(spec.targets)}, alpha {spec.alpha:g}, rank {spec.rank}, decoder "
            f"{spec.decoder}."
        )
    blocks = attention_layers(build_sam(spec.variant).image_encoder)
    if spec.layers != tuple(range(len(blocks))):
        raise AdapterError(f"The format of Sam_LoRA holds all {len(blocks)} layers, this adapter has {spec.layers}.")
    _warn_of_loss(spec)
    tensors = {
        name: tensor.contiguous()
        for name, tensor in adapter.tensors.items()
        if name.startswith(_DECODER) and "label_tokens" not in name
    }
    for number in range(len(PARTS) * len(blocks)):
        layer, part = blocks[number // len(PARTS)], PARTS[number % len(PARTS)]
        for letter in "ab":
            own = f"image_encoder.{layer}.attn.qkv.lora_{letter}_{part}"
            tensors[f"w_{letter}_{number:03d}"] = adapter.tensors[own].contiguous()
    with write_aside(path) as temporary:
        save_file(tensors, temporary)


def import_base(path: Path, variant: str, output: Path) -> None:
    """Seal a full checkpoint of one's own (fine-tuned SAM, MedSAM, multi-GPU) as base weights of a variant.

    Raises:
        WeightsError: if its tensors are not exactly those of the variant.
    """
    write_base(output, load_tensors(path), variant)


def write_base(path: Path, tensors: Mapping[str, Tensor], variant: str) -> None:
    """Write base weights that name their variant and are refused once altered.

    Raises:
        WeightsError: if the names or shapes are not those of the variant, or the ending is not .safetensors.
    """
    if path.suffix != ".safetensors":
        raise WeightsError(f"Base weights are written as .safetensors, got {path}.")
    wanted = {name: tensor.shape for name, tensor in build_sam(variant).state_dict().items()}
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors or name not in wanted or tensors[name].shape != wanted[name]:
            have = tuple(tensors[name].shape) if name in tensors else "missing"
            want = tuple(wanted[name]) if name in wanted else "not there"
            raise WeightsError(f"{name} is {have}, in {variant} it is {want}: these are not weights of {variant}.")
    plain = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    metadata = {BASE_FORMAT: "1", "variant": variant, "tensors": tensors_digest(plain)}
    with write_aside(path) as temporary:
        save_file(plain, temporary, metadata=metadata)


def merge_adapter(adapter: Path, output: Path, weights: str | None = None) -> None:
    """Write the network an adapter makes as plain full weights: official names, no trace of LoRA.

    A ``.safetensors`` output is sealed and can be the base of another adapter; ``.pt`` is a plain state dict for
    other tools. Label tokens stay behind, with a warning.

    Raises:
        ValueError: if the adapter or the base cannot be loaded, or the ending is neither.
    """
    if output.suffix not in (".safetensors", ".pt", ".pth"):
        raise ValueError(f"output must end in .safetensors, .pt or .pth, got {output}.")
    network = build_sam_lora(adapter=str(adapter), weights=weights)
    state = {name: tensor for name, tensor in network.merged().state_dict().items() if "label_tokens" not in name}
    _warn_of_loss(network.spec)
    if output.suffix == ".safetensors":
        write_base(output, state, network.spec.variant)
        return
    with write_aside(output) as temporary:
        torch.save(state, temporary)


def _warn_of_loss(spec: AdapterSpec) -> None:
    """Say what files of others have no place for."""
    if spec.tokens:
        logger.warning("The tokens of %d labels stay behind: this format has no place for them.", len(spec.tokens))
    if spec.neighbours:
        logger.warning(
            "Whoever reads this file has to show it neighbouring slices as channels; the file cannot say so."
        )


def describe_adapter(adapter: Adapter) -> dict[str, Any]:
    """What ``adapter.py info`` shows: spec, record, number of tensors and parameters."""
    return {
        **adapter.spec.to_json(),
        **{k: v for k, v in adapter.record.items() if k != "training_cases"},
        "training_cases": len(adapter.record.get("training_cases", {}).get("cases", [])),
        "tensors": len(adapter.tensors),
        "parameters": sum(t.numel() for t in adapter.tensors.values()),
    }
