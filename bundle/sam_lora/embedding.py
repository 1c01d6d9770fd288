"""A network at rest and the embeddings it has made: what every click, propagation and batch asks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sam_lora.cache import TensorCache
from sam_lora.networks import Sam
from sam_lora.volumes import Volume
from sam_lora.weights import tensors_digest

EMBEDDING_BYTES = 256 << 20  # about 60 embeddings of 64 x 64: a window of a long volume
STEP_BYTES = 64 << 20


class Embedder:
    """Encodes slices, each once while it stays in the cache.

    The key of an embedding is the slice's content and everything that makes the network what it is: two volumes, two
    users, or two adapters never see each other's. The weights must not change while an embedder holds them.

    Args:
        network: put into evaluation mode.
        cache: of embeddings; may be shared between embedders and threads. None makes one of 256 MB.
        batch_size: slices in one pass of the encoder; None takes 1 on a CPU, which gains nothing by more, else 8.

    Attributes:
        identity: digest of the network.
        steps: cache of what was decoded in propagations, see :mod:`sam_lora.propagation`.
    """

    def __init__(self, network: Sam, cache: TensorCache | None = None, batch_size: int | None = None) -> None:
        self.network = network.eval()
        self.device = network.pixel_mean.device
        self.cache = TensorCache(EMBEDDING_BYTES) if cache is None else cache
        self.steps = TensorCache(STEP_BYTES)
        self.batch_size = batch_size or (1 if self.device.type == "cpu" else 8)
        weight = network.image_encoder.get_parameter("neck.0.weight")
        said = f"{network.image_size} {network.normalization} {weight.dtype}"
        self.identity = f"{tensors_digest(network.state_dict())} {said}"

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
                images = torch.stack([volume.slice(slices[n]) for n in some]).to(self.device)
                # clones: a part of a batch would keep all of it in memory
                made += [(e[None].clone(),) for e in self.network.encode(images)]
            return made

        keys = [(self.identity, volume.digest(k)) for k in slices]
        return [value[0] for value in self.cache.get_many(keys, encode)]
