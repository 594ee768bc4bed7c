"""Primitives on patches: the parts of feature maps that an occluder changed.

What a patch holds is the *change*, the maps with the occluder minus the maps without, on a rectangle of pixels; outside of it
nothing changed. One array (P, C, h, w) holds the patches of many places of the occluder, all of one size, each with its own
origin in the maps. Of a linear layer, outputs change by what the changes of its inputs contribute, and the maps themselves need
not be read; of others, the change is that of the layer's function between the maps without and the maps with the change.

Results on NumPy lie channels last in memory, as these primitives read them best; any layout is welcome.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from dcnn_kernels.arrays import Array, check_bound, check_float, check_number, check_shape, select_backend
from dcnn_kernels.dlpack import takes_any_array
from dcnn_kernels.geometry import PadLike, Pair, PairLike, pads, pair

Integers = npt.NDArray[np.integer]
FORMS = ("gather", "scatter")


@takes_any_array
def crop_patches(
    x: Array, samples: Integers, origins: Integers, size: PairLike, fill: float = 0.0, *, backend: str | None = None
) -> Array:
    """Cuts rectangles of one size out of maps.

    Args:
        x: Maps (B, C, H, W), float32 or float64.
        samples: Integers (P,) in host memory: which of the maps each patch is cut from.
        origins: Integers (P, 2) in host memory: row and column of each patch's first pixel; it may lie outside the map.
        size: Rows and columns of the patches, 0 allowed.
        fill: What a patch holds where it reaches out of its map.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the array.

    Returns:
        Patches (P, C, h, w).

    Raises:
        TypeError: An argument is no array or of a wrong dtype, or a size is no integer.
        ValueError: A wrong shape, or a sample that there isn't.
        BackendError: The backend can't run on this array.
    """
    run = select_backend("patches", backend, x=x).crop_patches
    check_float("x", x, 4)
    _check_integers("samples", samples, (-1,))
    _check_integers("origins", origins, (len(samples), 2))
    if len(samples) and not 0 <= int(samples.min()) <= int(samples.max()) < len(x):
        raise ValueError(f"samples must be in 0..{len(x) - 1}, got {int(samples.min())}..{int(samples.max())}")
    return run(x, samples, origins, pair("size", size, 0), check_number("fill", fill))


@takes_any_array
def convolve_patches(
    x: Array,
    offsets: Integers,
    W: Array,
    outsize: PairLike,
    stride: PairLike = 1,
    dilate: PairLike = 1,
    groups: int = 1,
    form: str | None = None,
    layouts: dict[str, Any] | None = None,
    *,
    backend: str | None = None,
) -> Array:
    """How a convolution's outputs change as its inputs change: linear, so the bias has no part in it.

    Outputs come in either of two forms. *Gathered*, each output sums over its window. *Scattered* (stride 1 only), each changed
    input adds what it contributes to the outputs around it: fewer products, since the inputs that change are fewer than the
    outputs that do.

    Args:
        x: Changes of the inputs (P, C, h, w), float32 or float64; zero outside.
        offsets: Integers (P, 2) in host memory: row and column, in the patch, of the first tap of the window of the first
            output. With patches at ``origins`` that is ``output_origins * stride - pad - origins``.
        W: Filters (O, C / groups, kh, kw), of the same dtype.
        outsize: Rows and columns of the outputs that are wanted, 0 allowed.
        stride: Step between windows.
        dilate: Step between taps.
        groups: Number of channel groups.
        form: ``"gather"``, ``"scatter"``, or None for the one that is expected to be faster.
        layouts: A dict that keeps the filters as they are laid out for this, empty at the first call: handed in again with the
            same filters on the same backend, it saves laying them out anew. None to keep nothing.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the arrays.

    Returns:
        Changes of the outputs (P, O, rows, columns).

    Raises:
        TypeError: An argument is no array or of a wrong dtype, or a size is no integer.
        ValueError: A wrong shape, groups that don't divide the output channels, an unknown form, or ``"scatter"`` of a stride
            above 1.
        BackendError: The backend can't run on these arrays.
    """
    run = select_backend("patches", backend, x=x, W=W).convolve_patches
    check_float("x", x, 4)
    check_float("W", W, 4, like=x)
    steps, parts = pair("stride", stride), pair("groups", groups)[0]
    check_shape("x", x, (-1, W.shape[1] * parts, -1, -1))
    if len(W) % parts:
        raise ValueError(f"groups must divide the {len(W)} output channels, got {groups}")
    _check_integers("offsets", offsets, (len(x), 2))
    if form not in (None, *FORMS):
        raise ValueError(f"form must be one of {FORMS} or None, got {form!r}")
    if form == "scatter" and steps != (1, 1):
        raise ValueError(f"form 'scatter' is for stride 1, got stride {stride}")
    kept = {} if layouts is None else layouts
    return run(x, offsets, W, pair("outsize", outsize, 0), steps, pair("dilate", dilate), parts, form, kept)


@takes_any_array
def patch_form(
    W: Array,
    insize: PairLike,
    outsize: PairLike,
    stride: PairLike = 1,
    dilate: PairLike = 1,
    groups: int = 1,
    *,
    backend: str | None = None,
) -> str:
    """The form that :func:`convolve_patches` takes unless it is told one: the one with less to multiply and to move.

    Args:
        W: Filters (O, C / groups, kh, kw), float32 or float64.
        insize: Rows and columns of the patches.
        outsize: Rows and columns of the outputs that are wanted.
        stride: Step between windows.
        dilate: Step between taps.
        groups: Number of channel groups.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the array.

    Returns:
        ``"gather"`` or ``"scatter"``.

    Raises:
        TypeError: ``W`` is no array or of a wrong dtype, or a size is no integer.
        ValueError: A wrong shape or size.
        BackendError: The backend can't run on this array.
    """
    run = select_backend("patches", backend, W=W).patch_form
    check_float("W", W, 4)
    sizes = pair("insize", insize, 0), pair("outsize", outsize, 0)
    return run(W, *sizes, pair("stride", stride), pair("dilate", dilate), pair("groups", groups)[0])


@takes_any_array
def max_pool_patches(
    x: Array,
    origins: Integers,
    before: Array,
    after: Array,
    outputs: Integers,
    outsize: PairLike,
    ksize: PairLike,
    stride: PairLike,
    pad: PadLike = 0,
    *,
    backend: str | None = None,
) -> Array:
    """How a max pooling's outputs change as its inputs change.

    Args:
        x: Changes of the inputs (P, C, h, w), float32 or float64.
        origins: Integers (P, 2) in host memory: row and column of each patch's first pixel; patches lie inside the maps.
        before: The inputs without the change (1, C, H, W).
        after: The outputs without the change (1, C, H', W').
        outputs: Integers (P, 2) in host memory: the first outputs that are wanted.
        outsize: Rows and columns of outputs that are wanted, 0 allowed; all must lie inside ``after``.
        ksize: Rows and columns of the window.
        stride: Step between windows.
        pad: Padding with -inf: an integer, (rows, columns), or ((top, bottom), (left, right)).
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the arrays.

    Returns:
        Changes of the outputs (P, C, rows, columns).

    Raises:
        TypeError: An argument is no array or of a wrong dtype, or a size is no integer.
        ValueError: A wrong shape, or patches that reach out of the maps.
        BackendError: The backend can't run on these arrays.
    """
    run = select_backend("patches", backend, x=x, before=before, after=after).max_pool_patches
    rows_columns = pair("outsize", outsize, 0)
    check_float("x", x, 4)
    _check_maps("before", before, x)
    _check_maps("after", after, x)
    _check_inside("origins", origins, x.shape[2:], "before", before, len(x))
    _check_inside("outputs", outputs, rows_columns, "after", after, len(x))
    return run(x, origins, before, after, outputs, rows_columns, pair("ksize", ksize), pair("stride", stride), pads(pad))


@takes_any_array
def rectify_patches(
    x: Array, origins: Integers, before: Array, z: float = math.inf, slope: float = 0.0, *, backend: str | None = None
) -> Array:
    """How the outputs of a rectifier, ``min(max(v, 0), z) + slope * min(v, 0)``, change as its inputs change.

    Args:
        x: Changes of the inputs (P, C, h, w), float32 or float64.
        origins: Integers (P, 2) in host memory: row and column of each patch's first pixel; patches lie inside the maps.
        before: The inputs without the change (1, C, H, W).
        z: Upper bound, positive: 6 for ReLU6, inf for none.
        slope: Factor of negative values.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the arrays.

    Returns:
        Changes of the outputs (P, C, h, w).

    Raises:
        TypeError: An argument is no array or of a wrong dtype, or ``z`` or ``slope`` is no number.
        ValueError: A wrong shape, ``z`` not positive, or patches that reach out of the maps.
        BackendError: The backend can't run on these arrays.
    """
    run = select_backend("patches", backend, x=x, before=before).rectify_patches
    check_float("x", x, 4)
    _check_maps("before", before, x)
    _check_inside("origins", origins, x.shape[2:], "before", before, len(x))
    return run(x, origins, before, check_bound("z", z), check_number("slope", slope))


def _check_integers(name: str, array: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be a numpy.ndarray of integers, got {getattr(array, 'dtype', type(array).__name__)}")
    check_shape(name, array, shape)


def _check_maps(name: str, maps: Array, x: Array) -> None:
    check_float(name, maps, 4, like=x)
    check_shape(name, maps, (1, x.shape[1], -1, -1))


def _check_inside(name: str, origins: Integers, size: Pair, maps_name: str, maps: Array, count: int) -> None:
    _check_integers(name, origins, (count, 2))
    if count and not ((origins >= 0) & (origins + np.array(size) <= np.array(maps.shape[2:]))).all():
        raise ValueError(
            f"patches of {size[0]}x{size[1]} at {name} must lie inside {maps_name} of {maps.shape[2]}x{maps.shape[3]}, "
            f"got rows {origins[:, 0].min()}..{origins[:, 0].max()}, columns {origins[:, 1].min()}..{origins[:, 1].max()}"
        )
