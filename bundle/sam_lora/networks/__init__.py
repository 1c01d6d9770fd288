"""SAM's networks, one file per architectural part; they import torch only."""

from sam_lora.networks.sam import Sam, check_image_size
from sam_lora.networks.variants import VARIANTS, build_sam, look_up_variant

__all__ = ["VARIANTS", "Sam", "build_sam", "check_image_size", "look_up_variant"]
