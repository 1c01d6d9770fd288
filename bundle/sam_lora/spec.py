"""From what is asked of a network, and what an adapter already is, to the checked specification of an adapter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sam_lora.adapter import DEFAULT_INTENSITY, Adapter, AdapterError, AdapterSpec
from sam_lora.networks import Sam

TARGETS = ("q", "k", "v", "proj", "mlp")
DECODER_MODES = ("frozen", "lora", "full")
DEFAULT_VARIANT, DEFAULT_RANK, DEFAULT_TARGETS, DEFAULT_DECODER = "vit_t", 4, ("q", "v"), "frozen"


def agree(asked: Mapping[str, Any], given: Adapter | None) -> dict[str, Any]:
    """Fill in what is not asked for: the adapter's own value where one is given, None elsewhere.

    What is asked for and differs from the adapter's is compared later, with a sentence that names both.

    Args:
        asked: name -> value or None.
        given: the adapter that the network starts from.

    Raises:
        AdapterError: if tokens are asked for and the adapter has none, or the other way round.
    """
    if given is None:
        return dict(asked)
    known = given.spec
    wanted = {name: getattr(known, name) if value is None else value for name, value in asked.items()}
    if asked["tokens"] and not known.tokens:
        raise AdapterError("tokens are wanted and the adapter has none: train a new adapter with `--tokens True`.")
    if asked["tokens"] is False and known.tokens:
        raise AdapterError("tokens are not wanted and the adapter has some: leave `--tokens` out to keep them.")
    wanted["tokens"] = known.tokens
    wanted["labels"] = known.labels | _names(asked["labels"])
    wanted["intensity"] = asked["intensity"] or known.intensity
    return wanted


def make_spec(wanted: Mapping[str, Any], network: Sam, base_digest: str) -> AdapterSpec:
    """Check what is wanted, and put defaults where nothing is.

    Args:
        wanted: the arguments of :func:`sam_lora.build.build_sam_lora` by name, from :func:`agree`.
        network: still without LoRA; says how many layers there are.
        base_digest: of its tensors.

    Raises:
        ValueError: naming the argument, the rule and the value.
    """
    rank = DEFAULT_RANK if wanted["rank"] is None else wanted["rank"]
    alpha = wanted["alpha"]
    if alpha is not None and not alpha > 0:
        raise ValueError(f"alpha must be above 0, got {alpha}: at 0 the adapter would do nothing.")
    labels, decoder = _names(wanted["labels"]), _checked_decoder(wanted["decoder"])
    tokens = _checked_tokens(wanted["tokens"], labels)
    twice = [name for name, count in Counter(labels.values()).items() if count > 1]
    if tokens and twice:
        values = ", ".join(str(value) for value, name in labels.items() if name == twice[0])
        raise ValueError(f"Label {twice[0]!r} has the values {values}: with label tokens a name belongs to one value.")
    layers = _checked_layers(wanted["layers"], network)
    if not layers and decoder == "frozen" and not tokens:
        raise ValueError(
            "layers [] and decoder frozen leave nothing to train: give layers, decoder lora or full, or tokens."
        )
    intensity = wanted["intensity"] or DEFAULT_INTENSITY
    return AdapterSpec(
        variant=wanted["variant"],
        base_digest=base_digest,
        rank=rank,
        alpha=float(rank if alpha is None else alpha),
        targets=_checked_targets(wanted["targets"]),
        layers=layers,
        decoder=decoder,
        image_size=network.image_size,
        labels=labels,
        intensity={key: [float(v) for v in values] for key, values in intensity.items()},
        tokens=tokens,
        neighbours=bool(wanted["neighbours"]),
    )


def _names(labels: Mapping[Any, str] | None) -> dict[int, str]:
    return {int(value): str(name) for value, name in (labels or {}).items()}


def _checked_targets(targets: Sequence[str] | None) -> tuple[str, ...]:
    chosen = DEFAULT_TARGETS if targets is None else tuple(targets)
    if not chosen or not isinstance(chosen, tuple) or isinstance(targets, str) or not set(chosen) <= set(TARGETS):
        raise ValueError(f"targets must be a list out of {', '.join(TARGETS)}, got {targets!r}.")
    return tuple(t for t in TARGETS if t in chosen)


def _checked_layers(layers: Sequence[int] | str | None, network: Sam) -> tuple[int, ...]:
    depth, late = network.image_encoder.depth, network.image_encoder.late
    words = {"all": range(depth), "late": range(depth - late, depth)}
    chosen = list(words.get(layers, [-1])) if isinstance(layers, str) else range(depth) if layers is None else layers
    if not isinstance(chosen, list | tuple | range) or not set(chosen) <= set(range(depth)):
        raise ValueError(
            f'layers must be "all", "late" or a list of whole numbers from 0 to {depth - 1}, got {layers!r}.'
        )
    return tuple(sorted(set(chosen)))


def _checked_decoder(decoder: str | None) -> str:
    mode = DEFAULT_DECODER if decoder is None else decoder
    if mode not in DECODER_MODES:
        raise ValueError(f"decoder must be one of {', '.join(DECODER_MODES)}, got {decoder!r}.")
    return mode


def _checked_tokens(tokens: bool | Sequence[int] | None, labels: Mapping[int, str]) -> tuple[int, ...]:
    """The label values that have tokens: an adapter's own, or those of all named labels."""
    if not tokens:
        return ()
    if not isinstance(tokens, bool):
        return tuple(tokens)
    if not labels:
        raise ValueError('tokens belong to named labels: name them in the datalist, {"labels": {"1": "spleen"}}.')
    return tuple(sorted(labels))
