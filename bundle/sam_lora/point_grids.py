"""Where automatic masks are asked for: grids of points, in the image and in overlapping crops of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, x1 and y1 exclusive


def regular_grids(points_per_side: int, downscale_factor: int, layers: int) -> list[np.ndarray]:
    """Grids for the image and each layer of crops, every layer with ``downscale_factor`` times fewer points a side.

    Returns:
        ``layers + 1`` arrays ``(side**2, 2)``: the centres of equal cells as (x, y) from 0 to 1, row by row.

    Raises:
        ValueError: if a layer would have no point.
    """
    grids = []
    for layer in range(layers + 1):
        side = points_per_side // downscale_factor**layer
        if side == 0:
            raise ValueError(
                f"points_per_side {points_per_side}, divided by crop_n_points_downscale_factor {downscale_factor} for "
                f"each layer of crops, leaves layer {layer} without a point: use more points or fewer layers."
            )
        centres = np.linspace(1 / (2 * side), 1 - 1 / (2 * side), side)
        grids.append(np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2))
    return grids


def check_grids(point_grids: Sequence[np.ndarray], layers: int) -> list[np.ndarray]:
    """Grids that a caller gives, if they are ones, as arrays ``(N, 2)``.

    Raises:
        ValueError: if there is not one for the image and one for each layer, or one is no list of points in [0, 1].
    """
    grids = [np.asarray(grid, float) for grid in point_grids]
    if len(grids) != layers + 1:
        raise ValueError(
            f"point_grids must hold {layers + 1} grids, one for the image and one for each of crop_n_layers, got "
            f"{len(grids)}."
        )
    for n, grid in enumerate(grids):
        if grid.ndim != 2 or grid.shape[1] != 2 or not len(grid) or not ((grid >= 0) & (grid <= 1)).all():
            values = f" and values from {grid.min():g} to {grid.max():g}" if grid.size else ""
            raise ValueError(
                f"point_grids must hold arrays (N, 2) of x and y from 0 to 1, with at least one point; grid {n} has shape "
                f"{grid.shape}{values}."
            )
    return grids


def crop_boxes(size: tuple[int, int], layers: int, overlap_ratio: float) -> Iterator[tuple[Box, int]]:
    """The image itself, then the crops of each layer, column by column.

    Args:
        size: (H, W) of the image.
        layers: layer n has 2**n by 2**n crops.
        overlap_ratio: overlap in the first layer, as a part of the shorter side; it halves with each layer.

    Yields:
        Box and layer, which is 0 for the image.

    Raises:
        ValueError: if the image is too small for so many crops.
    """
    height, width = size
    yield (0, 0, width, height), 0
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(size) * (2 / count))
        spans = []
        for length in (width, height):
            crop = math.ceil((overlap * (count - 1) + length) / count)
            spans.append([(n * (crop - overlap), min(n * (crop - overlap) + crop, length)) for n in range(count)])
        if any(start >= stop for span in spans for start, stop in span):
            raise ValueError(
                f"crop_n_layers {layers} is too much for an image of {height} x {width} pixels: crops of layer {layer} "
                f"would be empty."
            )
        for (x0, x1), (y0, y1) in product(*spans):
            yield (x0, y0, x1, y1), layer
