"""The names and values that a run can be given on the command line, checked before any work."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

import torch
from monai.bundle import ConfigParser

# what `monai.bundle run` itself takes, and what its experiment tracking adds
MONAI_NAMES = {"run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file",
               "workflow_name", "tracking_uri", "experiment_name", "run_name", "save_execute_config", "is_not_rank0",
               "help"}  # fmt: skip


def _whole(least: int) -> tuple[str, Callable[[Any], bool]]:
    return f"a whole number of at least {least}", lambda v: type(v) is int and v >= least


def _number(least: float, open_end: bool = False) -> tuple[str, Callable[[Any], bool]]:
    words = f"a number above {least}" if open_end else f"a number of at least {least}"
    return words, lambda v: type(v) in (int, float) and (v > least if open_end else v >= least)


_SWITCH = ("True or False", lambda v: type(v) is bool)
_TEXT = ("a path or name", lambda v: type(v) is str)
RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **{name: _whole(1) for name in ("epochs", "batch_size", "accumulation_steps", "checkpoint_interval", "val_interval",
                                    "every", "num_points", "min_pixels", "rank", "image_size", "slices_per_epoch", "slices")},
    **{name: _whole(0) for name in ("seed", "num_workers", "corrections", "patience", "warm_up", "versions")},
    **{name: _number(0, open_end=True) for name in ("learning_rate", "decoder_learning_rate", "alpha", "tolerance", "minutes")},
    **{name: _number(0) for name in ("weight_decay", "box_jitter", "max_norm", "iou_weight")},
    **dict.fromkeys(("gradient_checkpointing", "empty_cache", "compile", "save_masks", "amp", "propagate", "everything", "overwrite", "tokens", "neighbours", "absent", "balanced", "parts", "augment",
                    "dicom_seg", "overlays"), _SWITCH),
    **dict.fromkeys(("dataset_dir", "datalist", "output_dir", "ckpt_dir", "resume", "adapter", "weights", "variant", "decoder", "prompt_mode", "image", "mask", "preset", "trunk_cache"), _TEXT),
    "optimizer_name": ("Adam, AdamW or another optimizer of torch.optim", lambda v: type(v) is str and hasattr(torch.optim, v)),
    "max_clicks": ("a whole number from 0 to 10", lambda v: type(v) is int and 0 <= v <= 10),
    "protocols": ("a list of protocols, like ['jittered_box','clicks_1']", lambda v: isinstance(v, str | list | tuple)),
    "axis": ("0, 1 or 2, the axis of the slices", lambda v: type(v) is int and 0 <= v <= 2),
    "task_name": ("a name without slashes", lambda v: type(v) is str and v != "" and "/" not in v),
    "intensity": ('like {"window": [40, 400]} or {"percentiles": [0.5, 99.5]}', lambda v: isinstance(v, Mapping)),
    "device": ("a device of this machine, like cpu or cuda:0", lambda v: _is_device(v)),
}  # fmt: skip


def check_values(config: Mapping[str, Any]) -> None:
    """Refuse values that no setting of that name can have.

    Args:
        config: a config's top level; names without a rule, nulls and ``$`` or ``@`` expressions are passed over.

    Raises:
        ValueError: naming the setting, the rule and the value.
    """
    for name, (words, is_right) in RULES.items():
        value = config.get(name)
        if value is None or (isinstance(value, str) and value.startswith(("$", "@"))):
            continue
        if not is_right(value):
            raise ValueError(f"{name} must be {words}, got {value!r}.")


def _is_device(name: Any) -> bool:
    if name == "auto":  # a command's word; configs hand their device to torch
        return False
    try:
        find_device(name)
    except ValueError:
        return False
    return True


def find_device(name: str) -> str:
    """A device that can be used; "auto" is the first GPU, else the CPU.

    Raises:
        ValueError: if it cannot be used, and why.
    """
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"{name} cannot be used ({str(error).splitlines()[0]}): use --device cpu.") from error
    return name


def check_names(arguments: Sequence[str]) -> None:
    """Refuse options of ``monai.bundle run`` that override nothing: MONAI takes any name and ignores it.

    Args:
        arguments: the command line after ``python -m monai.bundle``.

    Raises:
        ValueError: naming the option, and the nearest that exists.
    """
    given = [
        a[2:].split("=")[0].split("#")[0].split("::")[0].replace("-", "_") for a in arguments if a.startswith("--")
    ]
    files = [b for a, b in pairwise(arguments) if a == "--config_file"]
    files += [a.split("=", 1)[1] for a in arguments if a.startswith("--config_file=")]
    if not files:
        return
    known = {str(name).split("#")[0] for name in ConfigParser.load_config_files(_listed(files[0]))}
    for name in given:
        if name not in known | MONAI_NAMES:
            near = get_close_matches(name, known, 1)
            raise ValueError(f"There is no setting {name!r}{f'; {near[0]!r} is near' if near else ''}.")


def _listed(files: str) -> list[str]:
    """``--config_file`` is one path, or a list of paths as Python writes it."""
    return list(ast.literal_eval(files)) if files.startswith("[") else [files]
