"""The table of SAM variants: every size, and what each one's weights expect of an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sam_lora.networks.image_encoder import ImageEncoder
from sam_lora.networks.sam import Normalization, Sam
from sam_lora.networks.tiny_vit import TinyViT


@dataclass(frozen=True)
class Variant:
    """One row: how to build the image encoder, its native input side in pixels, and the normalization."""

    encoder: Callable[[], ImageEncoder | TinyViT]
    image_size: int
    normalization: Normalization


_VIT_B = partial(ImageEncoder, width=768, depth=12, num_heads=12, global_layers=(2, 5, 8, 11))
_VIT_L = partial(ImageEncoder, width=1024, depth=24, num_heads=16, global_layers=(5, 11, 17, 23))
_VIT_H = partial(ImageEncoder, width=1280, depth=32, num_heads=16, global_layers=(7, 15, 23, 31))

VARIANTS = {
    "vit_b": Variant(_VIT_B, 1024, "mean_std"),
    "vit_l": Variant(_VIT_L, 1024, "mean_std"),
    "vit_h": Variant(_VIT_H, 1024, "mean_std"),
    "medsam_vit_b": Variant(_VIT_B, 1024, "min_max"),
    "vit_t": Variant(TinyViT, 256, "min_max"),
}


def look_up_variant(name: str) -> Variant:
    """The row called ``name``.

    Raises:
        ValueError: if there is none; the sentence lists the names.
    """
    if name not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {name!r}.")
    return VARIANTS[name]


def build_sam(name: str, image_size: int | None = None) -> Sam:
    """Build a variant with random weights.

    Args:
        name: a row of the table.
        image_size: pixels a side of what the encoder sees; None takes the variant's native size. Smaller is faster:
            half the side costs about a quarter of the time.

    Raises:
        ValueError: if the variant is unknown or the size no multiple of the encoder's stride.
    """
    row = look_up_variant(name)
    return Sam(row.encoder(), row.image_size if image_size is None else image_size, row.normalization)
