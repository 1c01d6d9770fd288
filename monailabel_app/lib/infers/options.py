"""What a client may choose for an inference, as it is shown and as it comes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sam_lora.prompts import PromptError

AXES = ("2", "1", "0")  # of the slices; the first is the default


def switch(request: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """A request's yes or no: JSON's, or the words and numbers that option widgets make of them.

    Raises:
        PromptError: if it is neither.
    """
    value = request.get(name, default)
    if isinstance(value, str) and value.lower() in ("true", "false", "1", "0", ""):
        return value.lower() in ("true", "1")
    if value is None or isinstance(value, bool) or value in (0, 1):
        return bool(value)
    raise PromptError(f"{name} must be true or false, got {value!r}.")


def slice_axis(request: Mapping[str, Any]) -> int:
    """The slice axis that a request asks for; PromptError if there is no such axis."""
    value = request.get("axis")
    value = AXES[0] if value is None or value == "" or value == [] else value
    value = value[0] if isinstance(value, list) else value
    if isinstance(value, bool) or str(value) not in AXES:
        raise PromptError(f"axis must be 0, 1 or 2, the axis of the slices, got {value!r}.")
    return int(value)


def adapter_name(request: Mapping[str, Any]) -> str | None:
    """The adapter that a request asks for; None for the server's own choice."""
    value = request.get("adapter")
    value = value[0] if isinstance(value, list) and value else value
    if value is not None and not isinstance(value, str):
        raise PromptError(f"adapter must be a name, got {value!r}.")
    return value or None


def class_name(request: Mapping[str, Any]) -> str | None:
    """The label that a request names; None where it names none."""
    value = request.get("label")
    if value is not None and not isinstance(value, str):
        raise PromptError(f"label must be a name, got {value!r}.")
    return value or None
