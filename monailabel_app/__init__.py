"""The MONAI Label app: SAM-LoRA behind the server that 3D Slicer and OHIF talk to."""
