"""SAM's networks, one file per architectural part; they import torch only."""

from sam_lora.networks.sam import Sam
from sam_lora.networks.variants import VARIANTS, build_sam, look_up_variant

__all__ = ["VARIANTS", "Sam", "build_sam", "look_up_variant"]
