"""What lies below the lowest trained layer, computed once per image: a training that adapts the upper layers alone skips it."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sam_lora.adapted import SamLora
from sam_lora.cache import CacheStatistics, TensorCache, autocast_dtype
from sam_lora.files import writable_folder, write_aside
from sam_lora.weights import tensors_digest

TRUNK_BYTES = 4 << 30  # on vit_t about 1600 slices at 256 px, 8000 at 112 px


class TrunkCache:
    """Activations at a network's cut, kept as bfloat16, each image's computed once.

    The key is the image's content, how it is preprocessed, every tensor below the cut, and whether precision is mixed:
    another image, image size, base, or adapter below the cut never shares, and an adapter above it changes nothing.

    Args:
        network: its ``cut`` is where the activations are taken. What lies below must not change while it is used here.
        max_bytes: held in memory; the least recently used go first.
        folder: keeps all of them on disk too, for other runs: one file per image, about 2.6 MB on vit_t at 256 px.

    Raises:
        ValueError: if something below the cut is trained, or the folder cannot be written to.
    """

    def __init__(self, network: SamLora, max_bytes: int = TRUNK_BYTES, folder: str | Path | None = None) -> None:
        self.network, self.cut = network, network.cut
        below = network.image_encoder.trunk_tensors(self.cut)
        trained = sorted(name for name, tensor in below.items() if tensor.requires_grad)
        if trained:
            raise ValueError(
                f"trunk_cache keeps what lies below part {self.cut} of the image encoder, and {trained[0]} there is trained."
            )
        self.folder = None if folder is None else writable_folder(Path(folder), "trunk_cache")
        self._memory = TensorCache(max_bytes)
        said = f"{network.spec.variant} {network.image_size} {network.normalization} {self.cut} {tensors_digest(below)}"
        self._trunk = hashlib.sha256(said.encode())

    @property
    def statistics(self) -> CacheStatistics:
        """What was found in memory, what was not, and the bytes held there."""
        return self._memory.statistics

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Activations ``(B, ...)``, bfloat16, for ``network.rest(..., network.cut)``.

        Args:
            images: ``(B, 3, H, W)``, values in [0, 255].
        """
        keys = [self._key(image) for image in images]

        def make(missing: list[int]) -> list[tuple[Tensor]]:
            made = {n: None if self.folder is None else _read(self.folder / f"{keys[n]}.safetensors") for n in missing}
            absent = [n for n, found in made.items() if found is None]
            if absent:
                computed = self.network.trunk(images[absent], self.cut).to("cpu", torch.bfloat16)
                for n, activations in zip(absent, computed, strict=True):
                    # A clone: a part of a batch would keep all of it in memory.
                    made[n] = activations.clone()
                    if self.folder is not None:
                        _write(self.folder / f"{keys[n]}.safetensors", activations)
            return [(found,) for found in made.values() if found is not None]

        found = self._memory.get_many(keys, make)
        return torch.stack([activations for (activations,) in found]).to(images.device)

    def _key(self, image: Tensor) -> str:
        """Of one image ``(3, H, W)``: the same for whole numbers as uint8 and as floats, another for any other value."""
        content = image.detach().to("cpu", torch.float32).contiguous()
        digest = self._trunk.copy()
        digest.update(f"{tuple(content.shape)} {autocast_dtype(image.device)}".encode())
        digest.update(content.numpy().data)
        return digest.hexdigest()


def forget_oldest(folder: Path, max_bytes: int) -> None:
    """Keep a folder of activations within a size: what was written first goes first. They can be computed again.

    Args:
        folder: see :class:`TrunkCache`; may be missing.
        max_bytes: of all its files.
    """
    found = []
    for path in folder.glob("*.safetensors"):
        with suppress(FileNotFoundError):  # another process forgets at the same time
            found.append((path.stat(), path))
    total = sum(status.st_size for status, _ in found)
    for status, path in sorted(found, key=lambda one: one[0].st_mtime_ns):
        if total <= max_bytes:
            return
        path.unlink(missing_ok=True)
        total -= status.st_size


def _write(path: Path, activations: Tensor) -> None:
    tensors = {"activations": activations.contiguous()}
    with write_aside(path) as temporary:
        save_file(tensors, temporary, {"key": path.stem, "digest": tensors_digest(tensors)})


def _read(path: Path) -> Tensor | None:
    """Activations from a file; None where it is missing, cut short or altered: they are then computed again."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
            said = file.metadata() or {}
    except (SafetensorError, OSError):
        return None
    whole = said == {"key": path.stem, "digest": tensors_digest(tensors)}
    return tensors["activations"] if whole else None


def trunk_cache(network: SamLora, where: str | None, anew: bool) -> TrunkCache | None:
    """The trunk cache that a config asks for.

    Args:
        network: what is trained.
        where: None for no cache, "memory", or a folder that keeps activations for other runs.
        anew: whether images are altered at random, each time anew.

    Raises:
        ValueError: if images are altered: no two would be the same, and nothing would ever be found.
    """
    if not where:
        return None
    if anew:
        raise ValueError(
            "trunk_cache keeps what images become, and augment alters them each time: give `--versions 8`, so that altered "
            "images come again, or leave one of the two out."
        )
    return TrunkCache(network, folder=None if where == "memory" else where)
