"""What may be in a request: nothing that MONAI evaluates, nothing that is a path, nothing without end."""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from monailabel_app.lib.datastores.names import ending_of

logger = logging.getLogger(__name__)

INFER_PARAMS = ("label", "foreground", "background", "roi", "propagate", "axis", "adapter", "largest_cc", "correct_label",
                "result_extension", "result_dtype", "result_compress")  # fmt: skip
TRAIN_PARAMS = ("preset", "minutes", "slices", "image_size", "axis", "start")
_MAX_VALUES, _MAX_DEPTH, _MAX_TEXT, _MAX_NUMBER = 100_000, 6, 2000, 1e300
_EVALUATED = ("$", "@", "%")  # how strings begin that MONAI's config parser runs or resolves
_SAFE = re.compile(r"[^A-Za-z0-9_.-]")


class RequestError(ValueError):
    """A request cannot be taken; the sentence says why."""


def read_params(text: str) -> dict[str, Any]:
    """The JSON object in a form's field.

    Raises:
        RequestError: if it is none, or holds something that :func:`check_params` refuses.
    """

    def refuse(constant: str) -> None:
        raise RequestError(f"params must hold finite numbers, got {constant}.")

    try:
        params = json.loads(text or "{}", parse_constant=refuse)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RequestError(f"params must be a JSON object, and cannot be read: {str(error)[:100]}.") from error
    return check_params(params)


def check_params(params: Any) -> dict[str, Any]:
    """A request's parameters, if nothing in them can do harm.

    Raises:
        RequestError: if they are no object, too deep, too many, too long, hold a string that would be evaluated, or what
            no answer could hold: numbers without end, halves of characters.
    """
    if params is None:
        return {}
    if not isinstance(params, dict):
        raise RequestError(f"params must be a JSON object, got {type(params).__name__}.")
    for count, (value, depth) in enumerate(_values(params, 0)):
        if count > _MAX_VALUES or depth > _MAX_DEPTH:
            raise RequestError(f"params may hold {_MAX_VALUES} values, {_MAX_DEPTH} deep, at most.")
        if isinstance(value, str):
            _check_text(value)
        elif isinstance(value, int | float) and not abs(value) <= _MAX_NUMBER:  # nor is NaN
            raise RequestError(f"params must hold finite numbers, up to {_MAX_NUMBER:g}.")
    return params


def _check_text(value: str) -> None:
    if len(value) > _MAX_TEXT:
        raise RequestError(f"A text in params may have {_MAX_TEXT} characters at most, one has {len(value)}.")
    if value.lstrip().startswith(_EVALUATED):
        raise RequestError(f"A text in params must not begin with {', '.join(_EVALUATED)}, got {value[:40]!r}.")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise RequestError(f"A text in params must be whole characters, got half of one in {value[:40]!r}.")


def _values(value: Any, depth: int) -> Iterator[tuple[Any, int]]:
    yield value, depth
    if depth > _MAX_DEPTH:
        return
    inner = [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    for one in inner:
        yield from _values(one, depth + 1)


def allowed(params: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Those parameters that a task knows; clients send more, and none of that may reach MONAI Label.

    Args:
        params: of a client.
        names: of the parameters that the task reads.
    """
    left_out = sorted(str(name)[:40] for name in params.keys() - set(names))
    if left_out:
        logger.debug("not looked at: %s", ", ".join(left_out))
    return {name: value for name, value in params.items() if name in names}


def safe_name(filename: str | None) -> str:
    """A client's file name without its folders and without what is more than a name."""
    name = _SAFE.sub("_", Path((filename or "").replace("\\", "/")).name).lstrip("._-")
    return name[-120:] or "file"


@contextmanager
def received(file: BinaryIO, filename: str | None) -> Iterator[Path]:
    """An uploaded image or label as a file of its own, removed in the end.

    Args:
        file: what was uploaded.
        filename: what the client calls it; only its ending is kept.

    Raises:
        ValueError: if the ending is no image's.
    """
    ending = ending_of(safe_name(filename))
    with tempfile.TemporaryDirectory(prefix="sam-lora-") as folder:
        path = Path(folder) / f"upload{ending}"
        with path.open("wb") as target:
            shutil.copyfileobj(file, target)
        yield path
