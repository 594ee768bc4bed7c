"""How a network's outputs change as windows of a picture are hidden.

The kernels carry the changes forward; PyTorch runs the whole network for each window. Where windows change much of a small
network PyTorch may take less time all the same, so whichever took less for the same windows so far does the work.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import numpy as np
import torch
from torch import Tensor, nn

import dcnn_kernels as kernels
from dcnn_kernels.arrays import Array, array_module
from dcnn_kernels.dlpack import takes_any_array
from dcnn_visualizer.batching import in_batches
from dcnn_visualizer.dropin.conversions import Conversion
from dcnn_visualizer.evaluation import evaluate
from dcnn_visualizer.incremental import IncrementalSweep, Watcher
from dcnn_visualizer.memory import free_memory

#: Pictures in a run of PyTorch, and bytes of its largest tensor, at most: with more, memory goes back to the system every time,
#: and to have its pages anew takes longer than a larger run gains.
RUN, ROOM = 16, 8 << 20
#: PyTorch has its turn first: of many windows one run of it tells, and the kernels do the rest.
ENGINES = ("pytorch", "kernels")

#: Gets a picture's outputs as it is, (1, ...), and may refuse them.
Check = Callable[[Tensor], object]


def occlusion_changes(
    module: nn.Module, conversion: Conversion, picture: Tensor, windows: np.ndarray, fills: Tensor, batch: int, check: Check
) -> Tensor:
    """How the network's outputs for one picture change as each window is hidden.

    Args:
        module: The network.
        conversion: The same as a chain.
        picture: Tensor (C, H, W).
        windows: Integers (N, 4): top, left, bottom, right of each window.
        fills: What hides them, in turn: (fills, C, H, W).
        batch: Windows that go through the kernels at once, at most.
        check: Gets the outputs of the picture as it is, and may refuse them.

    Returns:
        Tensor (fills, N, ...): occluded minus original.
    """
    picture, fills = picture.detach(), fills.detach()
    run = max(1, min(RUN, ROOM // max(1, conversion.largest)))
    contest = conversion.contests[windows.tobytes()]
    works: dict[str, Callable[[np.ndarray], Tensor]] = {
        "pytorch": lambda some: _by_pytorch(module, conversion.reorders, picture, some, fills, run, check),
        "kernels": lambda some: _by_kernels(picture, fills, conversion, some, batch, check),
    }

    def timed(engine: str, some: np.ndarray) -> Tensor:
        start = time.perf_counter()
        changes = works[engine](some)
        contest.note(engine, (time.perf_counter() - start) / len(some))
        return changes

    if picture.is_cuda:
        return works["kernels"](windows)
    if len(windows) <= run or "pytorch" not in contest.to_try(ENGINES):
        return timed(contest.next(ENGINES), windows)
    # Windows from everywhere, since those at the border change less.
    tried = np.zeros(len(windows), bool)
    tried[:: -(-len(windows) // run)] = True
    told, rest = timed("pytorch", windows[tried]), timed("kernels", windows[~tried])
    changes = told.new_empty((len(fills), len(windows), *told.shape[2:]))
    changes[:, torch.from_numpy(tried)], changes[:, torch.from_numpy(~tried)] = told, rest
    return changes


def _by_pytorch(
    module: nn.Module, reorder: bool, picture: Tensor, windows: np.ndarray, fills: Tensor, run: int, check: Check
) -> Tensor:
    """As :func:`occlusion_changes`, by runs of PyTorch with so many pictures each."""
    memory_format = torch.channels_last if reorder else torch.contiguous_format
    # The first picture is as it is: nothing of it is hidden.
    tasks = [(picture, [0, 0, 0, 0]), *itertools.product(fills, windows.tolist())]
    count = math.ceil(len(tasks) / run)
    outputs: list[Tensor] = []
    for number in range(count):
        some = tasks[len(tasks) * number // count : len(tasks) * (number + 1) // count]
        pictures = picture.expand(len(some), *picture.shape).clone(memory_format=memory_format)
        for hidden, (fill, (top, left, bottom, right)) in zip(pictures, some, strict=True):
            hidden[:, top:bottom, left:right] = fill[:, top:bottom, left:right]
        outputs.append(module(pictures))
        if number == 0:
            check(outputs[0][:1])
    whole = torch.cat(outputs)
    return (whole[1:] - whole[:1]).reshape(len(fills), len(windows), *whole.shape[1:])


@takes_any_array
def _by_kernels(picture: Array, fills: Array, conversion: Conversion, windows: np.ndarray, batch: int, check: Check) -> Array:
    """As :func:`occlusion_changes`, by the kernels."""
    graph = conversion.graph
    output, xp = graph.index(""), array_module(picture)
    device = chainer.backend.get_device_from_array(picture)
    with chainer.using_device(device), chainer.no_backprop_mode(), chainer.using_config("train", False):
        sweep = IncrementalSweep(graph, [output], picture[None])
        check(torch.from_dlpack(sweep.outputs[output]))
        if sweep.outputs[output].ndim == 2:
            watcher = Watcher(sweep, {output: "value"}, batch, free_memory(picture) // 4)
            return xp.stack([watcher.watch(windows, fill[None])[output] for fill in fills])
        parts: list[Array] = []

        def hide(start: int, stop: int, fill: Array) -> None:
            changed = evaluate(graph, kernels.occlude(picture, windows[start:stop], fill), [output])[0]
            parts.append(changed - sweep.outputs[output])

        for fill in fills:
            in_batches(len(windows), batch, functools.partial(hide, fill=fill))
        return xp.concatenate(parts).reshape(len(fills), len(windows), *sweep.outputs[output].shape[1:])
