"""A network at rest and the embeddings it has made: what every click, propagation and batch asks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from sam_lora.cache import TensorCache, autocast_dtype
from sam_lora.networks import Sam
from sam_lora.volumes import Volume, around
from sam_lora.weights import tensors_digest

# About 60 embeddings of 64 x 64, a window of a long volume. Two prompted slices further apart have what lies between
# them encoded twice, once from each side.
EMBEDDING_BYTES = 256 << 20
STEP_BYTES = 256 << 20  # about 2000 slices of objects


class Embedder:
    """Encodes slices, each once while it stays in the cache.

    The key of an embedding is the slice's content and everything that makes the network what it is: two volumes, two
    users, or two adapters never see each other's. The weights must not change while an embedder holds them.

    Args:
        network: put into evaluation mode.
        cache: of embeddings; may be shared between embedders and threads. None makes one of 256 MB.
        batch_size: slices in one pass of the encoder; None takes 1 on a CPU, which gains nothing by more, else 8.
        digest: of the network's tensors, where it is known; they are hashed otherwise.

    Attributes:
        steps: cache of what was decoded in propagations, see :mod:`sam_lora.propagation`.
    """

    def __init__(self, network: Sam, cache: TensorCache | None = None, batch_size: int | None = None,
                 digest: str | None = None) -> None:  # fmt: skip
        self.network = network.eval()
        self.device = network.pixel_mean.device
        self.cache = TensorCache(EMBEDDING_BYTES) if cache is None else cache
        self.steps = TensorCache(STEP_BYTES)
        self.batch_size = batch_size or (1 if self.device.type == "cpu" else 8)
        # The network's text tells what no tensor does: the layers, and by how much LoRA is scaled.
        said = f"{network!r} {network.image_size} {network.normalization} {network.neighbours} {self.device}"
        self._digest = (digest or tensors_digest(network.state_dict())) + hashlib.sha256(said.encode()).hexdigest()

    @property
    def identity(self) -> str:
        """Of the network and how it computes now: what the keys of all it makes begin with."""
        return f"{self._digest} {autocast_dtype(self.device)}"

    def digest(self, volume: Volume, k: int) -> str:
        """Of all that the network sees of a slice."""
        seen = sorted(set(around(k, len(volume)))) if self.network.neighbours else [k]
        return " ".join([str(seen.index(k)), *(volume.digest(n) for n in seen)])

    def holds(self, volume: Volume, k: int) -> bool:
        """Whether a slice's embedding is in the cache."""
        return (self.identity, self.digest(volume, k)) in self.cache

    @torch.no_grad()
    def embed(self, volume: Volume, slices: Sequence[int]) -> list[Tensor]:
        """Embeddings ``(1, C, h, w)`` of some slices, from the cache where it has them.

        Args:
            volume: holds the slices.
            slices: their numbers.
        """

        def encode(missing: list[int]) -> list[tuple[Tensor]]:
            made: list[tuple[Tensor]] = []
            for start in range(0, len(missing), self.batch_size):
                some = missing[start : start + self.batch_size]
                images = torch.stack([volume.slice(slices[n], self.network.neighbours) for n in some]).to(self.device)
                # clones: a part of a batch would keep all of it in memory
                made += [(e[None].clone(),) for e in self.network.encode(images)]
            return made

        keys = [(self.identity, self.digest(volume, k)) for k in slices]
        return [value[0] for value in self.cache.get_many(keys, encode)]
