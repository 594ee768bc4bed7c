"""Occlusion as Captum counts it: every element gets the mean of the differences of the windows that hide it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dcnn_visualizer.dropin.arguments import Target, select_target, target_of
from dcnn_visualizer.dropin.conversions import Conversion
from dcnn_visualizer.dropin.sweeps import occlusion_changes
from dcnn_visualizer.incremental import PLACES


def differences(
    module: nn.Module,
    conversion: Conversion,
    x: Tensor,
    baseline: Tensor,
    axes: Sequence[Sequence[slice]],
    target: Target,
    perturbations_per_eval: int,
    advance: Callable[[int], Any],
) -> Tensor:
    """How scores fall as each window of pictures is hidden.

    Args:
        module: The network.
        conversion: The same as a chain.
        x: Pictures (B, C, H, W).
        baseline: What hides them, of the same shape and dtype.
        axes: Slices of channels, rows and columns; a window is any combination of them.
        target: The scores asked about.
        perturbations_per_eval: Windows that count as one run.
        advance: Called with the number of runs that were done.

    Returns:
        Tensor (scores, channel slices, row slices, column slices): the scores as they are minus those with the window hidden.
    """

    def check(outputs: Tensor) -> None:
        select_target(outputs.expand(len(x), *outputs.shape[1:]), target)  # Which refuses a target that doesn't fit.

    advance(1)
    channels, rows, columns = axes
    places = np.array([(row.start, column.start, row.stop, column.stop) for row, column in itertools.product(rows, columns)])
    runs, falls = math.ceil(len(channels) * len(places) / perturbations_per_eval), []
    for example, (picture, hiding) in enumerate(zip(x.detach(), baseline, strict=True)):
        # Channels that a window leaves alone are filled with themselves.
        fills = picture.repeat(len(channels), 1, 1, 1)
        for fill, part in zip(fills, channels, strict=True):
            fill[part] = hiding[part]
        batch = max(perturbations_per_eval, PLACES)
        changes = occlusion_changes(module, conversion, picture, places, fills, batch, check).flatten(0, 1)
        chosen = select_target(changes, target_of(target, example, len(changes)))
        falls.append(-chosen.reshape(len(changes), -1).T)
        advance(runs * (example + 1) // len(x) - runs * example // len(x))
    return torch.cat(falls).reshape(-1, len(channels), len(rows), len(columns))


def averaged(differences: Tensor, axes: Sequence[Sequence[slice]], x: Tensor) -> Tensor:
    """Shares differences out over the elements that each window hides, and averages them there.

    Args:
        differences: Tensor (scores, windows...).
        axes: For each axis of an input but that of the batch, the slices that windows take of it.
        x: The input.

    Returns:
        Tensor (scores, ...) of the input's further axes, float32 unless PyTorch's default is more exact.
    """
    # Sums over a window's sides are products with matrices of ones and zeros, axis by axis.
    exact = differences.dtype not in (torch.float16, torch.bfloat16, torch.float32)
    sums = differences.to(torch.float64 if exact else torch.float32)
    counts = sums.new_ones((), dtype=torch.promote_types(torch.float32, torch.get_default_dtype()))
    for slices, size in zip(axes, x.shape[1:], strict=True):
        covered = torch.zeros((len(slices), size), dtype=sums.dtype, device="cpu")
        for row, part in zip(covered, slices, strict=True):
            row[part] = 1
        sums = torch.tensordot(sums, covered.to(sums.device), dims=([1], [0]))
        counts = counts[..., None] * covered.sum(0).to(counts)
    return sums.to(x.device).float() / counts.to(x.device)
