"""Pictures inside an HTML page, so that the page is one file."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image


def inline_png(png: bytes) -> str:
    """A PNG as the ``src`` of an image."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def inline_picture(picture: np.ndarray) -> str:
    """A picture ``(H, W)`` or ``(H, W, 3)``, uint8, as the ``src`` of an image."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return inline_png(buffer.getvalue())
