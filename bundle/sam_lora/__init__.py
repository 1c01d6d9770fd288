"""SAM with LoRA adapters for medical images: network, adapters, prompts, transforms, inferers."""

__version__ = "0.1.0"
