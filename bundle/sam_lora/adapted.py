"""SAM with adapted layers: what of it is trained, what an adapter file holds of it, and what is left for inference."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sam_lora.adapter import Adapter, AdapterError, AdapterSpec, check_adapter
from sam_lora.files import write_aside
from sam_lora.lora import lora_parameter_names, merge_lora
from sam_lora.networks import Sam


class SamLora(Sam):
    """SAM with adapted layers. Parameter names are official SAM's, plus ``lora_`` ones beside the weights they adapt.

    Attributes:
        spec: what the adapter in this network is made for.
    """

    spec: AdapterSpec

    @property
    def cut(self) -> int:
        """Index of the encoder's first part that is trained; its number of parts where none is.

        What lies below, ``trunk(image, cut)``, stays the base's for as long as the adapter is trained.
        """
        return min(self.spec.layers, default=self.image_encoder.depth + 1)

    def trainable_names(self) -> set[str]:
        """Names of the parameters an adapter consists of."""
        names = lora_parameter_names(self)
        if self.spec.tokens:
            names.add("prompt_encoder.label_tokens.weight")
        if self.spec.decoder == "full":
            names |= {n for n, _ in self.named_parameters() if n.startswith(("prompt_encoder.", "mask_decoder."))}
        return names

    def adapter_tensors(self) -> dict[str, Tensor]:
        """The trained tensors by name, detached; what an adapter file and ``model.pt`` hold."""
        parameters = dict(self.named_parameters())
        return {name: parameters[name].detach() for name in sorted(self.trainable_names())}

    def load_adapter(self, adapter: Adapter, path: Path, copied: bool = True) -> None:
        """Put an adapter's tensors into the network.

        Args:
            adapter: what is put in.
            path: what a sentence calls it.
            copied: into the network's own parameters; False makes the tensors themselves its parameters.

        Raises:
            AdapterError: if it was made for another network, or lacks or adds a tensor.
        """
        check_adapter(adapter, self.spec, path)
        self.load_adapter_tensors(adapter.tensors, path, copied)

    def load_adapter_tensors(self, tensors: Mapping[str, Tensor], path: Path, copied: bool = True) -> None:
        """Put trained tensors into the network; AdapterError if names or shapes differ from :meth:`adapter_tensors`."""
        own = self.adapter_tensors()
        for name in sorted(own.keys() ^ tensors.keys()):
            side = "lacks" if name in own else "holds, and this network has no,"
            raise AdapterError(f"{path} {side} {name}.")
        for name, tensor in tensors.items():
            if own[name].shape != tensor.shape:
                raise AdapterError(
                    f"{path} holds {name} of shape {tuple(tensor.shape)}, this network's is {tuple(own[name].shape)}."
                )
        with torch.no_grad():
            for name, tensor in tensors.items():
                if copied:
                    own[name].copy_(tensor)
                else:
                    set_parameter(self, name, tensor.to(own[name]))

    def merged(self, copied: bool = True) -> Sam:
        """For inference: LoRA merged into the weights, plain official names, nothing trainable.

        Args:
            copied: share nothing with this network; False takes its parts, and leaves it of no more use.
        """
        network = copy.deepcopy(self) if copied else self
        merge_lora(network)
        plain = Sam.__new__(Sam)
        plain.__dict__.update(network.__dict__)  # its spec too: names and intensities, for whoever asks
        return plain.requires_grad_(False).eval()


def set_parameter(network: nn.Module, name: str, tensor: Tensor) -> None:
    """Make a tensor itself the parameter of that name, in place of the one that is there."""
    owner, _, own = name.rpartition(".")
    network.get_submodule(owner).register_parameter(own, nn.Parameter(tensor))


def report_trainable(network: SamLora) -> str:
    """Trainable parameters by part and their share, one line each; logged at the start of training."""
    lines = []
    for part, module in network.named_children():
        trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
        lines.append((part, trained, sum(p.numel() for p in module.parameters())))
    lines.append(("total", sum(line[1] for line in lines), sum(line[2] for line in lines)))
    return "\n".join(f"{part:<15}{trained:>12,} of {total:>12,} trainable ({trained / total:.2%})"
                     for part, trained, total in lines)  # fmt: skip


def write_model(network: SamLora, path: Path) -> None:
    """Write ``model.pt``: the trained tensors under the network's names, for MONAI's own (non-strict) loaders."""
    with write_aside(path) as temporary:
        torch.save({name: tensor.cpu() for name, tensor in network.adapter_tensors().items()}, temporary)
