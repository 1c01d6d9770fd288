"""The network every config builds: LoRA goes into SAM here, and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from sam_lora.adapted import SamLora, set_parameter, write_model
from sam_lora.adapter import Adapter, AdapterError, read_adapter
from sam_lora.lora import inject_lora
from sam_lora.networks import check_image_size, look_up_variant, tiny_vit
from sam_lora.networks import image_encoder as vit
from sam_lora.spec import DEFAULT_VARIANT, agree, make_spec
from sam_lora.weights import MODELS_DIR, WeightsError, find_weights, load_weights, tensors_digest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """A variant's base in memory, for a process that builds one network after the other.

    Args:
        variant: row of the table of variants.
        network: the base itself; never changed.
        digest: of its tensors.
    """

    variant: str
    network: SamLora
    digest: str

    def shared(self, image_size: int) -> SamLora:
        """A network of its own modules at another size that shares every tensor with the base."""
        network = _sharing(self.network)
        check_image_size(network.image_encoder, image_size)
        network.image_size = image_size
        return network


_Module = TypeVar("_Module", bound=nn.Module)


def _sharing(module: _Module) -> _Module:
    """A module like another, of parts of its own that hold the other's tensors; a deep copy takes ten times as long."""
    own = module.__new__(type(module))
    own.__dict__.update({n: v.copy() if isinstance(v, dict | list | set) else v for n, v in vars(module).items()})
    own._modules.update({n: None if part is None else _sharing(part) for n, part in own._modules.items()})
    return own


def load_base(variant: str = DEFAULT_VARIANT, weights: str | None = None) -> Base:
    """Read a variant's base.

    Args:
        variant: row of the table of variants.
        weights: path of the base checkpoint (found by :func:`sam_lora.weights.find_weights`).

    Raises:
        ValueError: if the variant is unknown, or its weights cannot be had.
    """
    row = look_up_variant(variant)
    network = SamLora(row.encoder(), row.image_size, row.normalization)
    tensors = load_weights(Path(weights) if weights else find_weights(variant), variant)
    _load_base(network, tensors, variant)
    return Base(variant, network.requires_grad_(False), tensors_digest(tensors))


def build_sam_lora(  # noqa: PLR0913  each argument is a name in the configs
    variant: str | None = None,
    rank: int | None = None,
    alpha: float | None = None,
    targets: Sequence[str] | None = None,
    layers: Sequence[int] | str | None = None,
    decoder: str | None = None,
    image_size: int | None = None,
    labels: Mapping[Any, str] | None = None,
    intensity: Mapping[str, Sequence[float]] | None = None,
    adapter: str | Adapter | None = None,
    weights: str | None = None,
    tokens: bool | None = None,
    neighbours: bool | None = None,
    gradient_checkpointing: bool = False,
    compile: bool = False,  # noqa: A002  the name of the setting
    base_of: Callable[[str], Base] | None = None,
) -> SamLora:
    """Build the network: base weights, LoRA at its start (identity), or an adapter.

    What is None is the adapter's where one is given, else the default in parentheses. What is given and differs from
    the adapter's is refused.

    Args:
        variant: row of the table of variants (vit_t).
        rank: inner width of the LoRA updates, from 1 to the smaller side of the adapted layers (4).
        alpha: the updates are scaled by ``alpha / rank`` (the rank, so a scale of 1).
        targets: adapted projections, out of q, k, v, proj, mlp (q and v).
        layers: indices of adapted attention layers, counted through the encoder; or "all"; or "late", the last stage
            of vit_t or the last quarter of the others, which trains faster; or none where the decoder is trained (all).
        decoder: "frozen", "lora" (q and v of its attention), or "full": prompt encoder and mask decoder trained
            whole (frozen).
        image_size: pixels a side of what the encoder sees (the variant's own).
        labels: value -> name.
        intensity: ``{"percentiles": [low, high]}`` or ``{"window": [level, width]}`` (0.5 and 99.5 percent).
        adapter: path of an adapter file; or what was read from one, whose tensors the network takes with ``base_of``.
        tokens: give each label learned tokens, which segment it without a prompt (no).
        neighbours: show the network the slices before and after as its other two channels (no).
        weights: path of the base checkpoint (found by :func:`sam_lora.weights.find_weights`).
        gradient_checkpointing: recompute activations in the backward pass: less memory, more time.
        compile: hand the image encoder to ``torch.compile``.
        base_of: gives a variant's base, where it is kept in memory: what the adapter leaves alone is shared with it.

    Returns:
        The network in training mode; only the adapter's parameters require gradients.

    Raises:
        ValueError: naming the argument, the rule and the value; also WeightsError and AdapterError, which are ones.
    """
    given = adapter if isinstance(adapter, Adapter) else read_adapter(Path(adapter)) if adapter else None
    asked = {"variant": variant, "rank": rank, "alpha": alpha, "targets": targets, "layers": layers, "decoder": decoder,
             "image_size": image_size, "labels": labels, "intensity": intensity, "tokens": tokens,
             "neighbours": neighbours}  # fmt: skip
    wanted = agree(asked, given)
    variant = wanted["variant"] = wanted["variant"] or DEFAULT_VARIANT
    row = look_up_variant(variant)
    size = row.image_size if wanted["image_size"] is None else wanted["image_size"]
    if base_of is None:
        network = SamLora(row.encoder(), size, row.normalization)
        tensors = load_weights(Path(weights) if weights else find_weights(variant), variant)
        _load_base(network, tensors, variant)
        digest = tensors_digest(tensors)
    else:
        base = base_of(variant)
        _refuse_other_base(base, variant)
        network, digest = base.shared(size), base.digest
    network.spec = make_spec(wanted, network, digest)
    _inject(network)
    if network.spec.tokens:
        network.prompt_encoder.add_label_tokens(len(network.spec.tokens), network.image_size)
    if given is not None:
        network.load_adapter(given, given.path, copied=base_of is None)
    elif base_of is not None:
        _unshare(network)
    network.neighbours, network.tokens = network.spec.neighbours, network.spec.tokens
    network.image_encoder.gradient_checkpointing = gradient_checkpointing
    if compile:
        network.image_encoder.compile()
    trainable = network.trainable_names()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in trainable)
    return network


def _refuse_other_base(base: Base, variant: str) -> None:
    if base.variant != variant:
        raise AdapterError(f"The adapter is for the base {variant}, the one in memory is {base.variant}.")


def _unshare(network: SamLora) -> None:
    """Give a network that shares its base's tensors its own of all that an adapter changes."""
    parameters = dict(network.named_parameters())
    for name in network.trainable_names():
        set_parameter(network, name, parameters[name].detach().clone())


def _load_base(network: SamLora, base: dict[str, Tensor], variant: str) -> None:
    own = network.state_dict()
    for name in sorted(own.keys() ^ base.keys()):
        raise WeightsError(f"The checkpoint of {variant} {'lacks' if name in own else 'holds the unknown'} {name}.")
    for name, tensor in base.items():
        if own[name].shape != tensor.shape:
            raise WeightsError(f"{name} has shape {tuple(tensor.shape)}, {variant} wants {tuple(own[name].shape)}.")
    network.load_state_dict(base)


def attention_layers(encoder: nn.Module) -> list[str]:
    """Names, inside the encoder, of the blocks that hold attention, in order: what ``layers`` counts."""
    return [name for name, module in encoder.named_modules() if hasattr(module, "attn")]


def _inject(network: SamLora) -> None:
    spec = network.spec
    blocks = attention_layers(network.image_encoder)
    for index in spec.layers:
        _inject_block(network, f"image_encoder.{blocks[index]}")
    if spec.decoder == "lora":
        for name, module in list(network.mask_decoder.named_modules()):
            if name.endswith(("q_proj", "v_proj")) and isinstance(module, nn.Linear):
                inject_lora(network, f"mask_decoder.{name}", {name[-6]: None}, spec.rank, spec.alpha)


def _inject_block(network: SamLora, name: str) -> None:
    spec = network.spec
    attention = cast("vit.Attention | tiny_vit.Attention", network.get_submodule(f"{name}.attn"))
    fused: dict[str, Tensor | None] = {part: attention.qkv_rows(part) for part in "qkv" if part in spec.targets}
    if fused:
        inject_lora(network, f"{name}.attn.qkv", fused, spec.rank, spec.alpha)
    if "proj" in spec.targets:
        inject_lora(network, f"{name}.attn.proj", {"proj": None}, spec.rank, spec.alpha)
    if "mlp" in spec.targets:
        for child, module in list(network.get_submodule(f"{name}.mlp").named_children()):
            if isinstance(module, nn.Linear):
                inject_lora(network, f"{name}.mlp.{child}", {"mlp": None}, spec.rank, spec.alpha)


def write_zero_model(variant: str, folder: Path = MODELS_DIR) -> Path:
    """Write the ``model.pt`` of an adapter that changes nothing, unless there is one: MONAI Label wants the file."""
    path = folder / "model.pt"
    if not path.exists():
        write_model(build_sam_lora(variant), path)
    return path
