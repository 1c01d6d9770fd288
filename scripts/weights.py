"""Base checkpoints: list what there is, fetch one, verify a file."""

from __future__ import annotations

from pathlib import Path

from sam_lora.build import write_zero_model
from sam_lora.cli import run
from sam_lora.spec import DEFAULT_VARIANT
from sam_lora.weights import (
    CHECKPOINTS,
    MODELS_DIR,
    WeightsError,
    find_weights,
    get_weights,
    identify,
    load_weights,
    read_seal,
)


def list_() -> None:
    """Show every variant, its file, and whether it is here."""
    for variant, checkpoint in CHECKPOINTS.items():
        try:
            where = str(find_weights(variant))
        except WeightsError:
            where = "not here"
        print(f"{variant:<13} {checkpoint.filename:<22} {where}")


def get(variant: str, source: str | None = None) -> None:
    """Put the base checkpoint of VARIANT into the bundle's models folder.

    Args:
        variant: vit_b, vit_l, vit_h, medsam_vit_b or vit_t (which needs no network).
        source: take this file instead of fetching one, for machines without a network.
    """
    print(get_weights(variant, Path(source) if source else None))
    if variant == DEFAULT_VARIANT:
        print(write_zero_model(variant, MODELS_DIR))


def verify(file: str) -> None:
    """Say whose published checkpoint FILE is.

    Args:
        file: a checkpoint.
    """
    path = Path(file)
    if not path.is_file():
        raise WeightsError(f"There is no file {path}.")
    seal = read_seal(path)
    variant = identify(path) if seal is None else seal["variant"]
    if seal is not None:
        load_weights(path, seal["variant"])
    if variant is None:
        raise WeightsError(
            f"{path} is no published checkpoint of {', '.join(CHECKPOINTS)}: its hash is none of theirs."
        )
    print(f"{path} holds the base weights of {variant}.")


if __name__ == "__main__":
    run({"list": list_, "get": get, "verify": verify}, "weights.py")
