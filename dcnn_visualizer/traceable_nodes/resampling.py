"""Maps in another size, by a matrix for their rows and one for their columns; back by the transposed matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F
import numpy as np
import numpy.typing as npt

from dcnn_kernels.arrays import Array, array_module
from dcnn_kernels.geometry import Pair
from dcnn_visualizer.traceable_nodes.node import TraceableNode

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule

Floats = npt.NDArray[np.float64]


class Resampling2D(TraceableNode):
    """What layers share that make each row of the output of rows of the input, and each column of columns."""

    shares_record = True

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``tensordot`` with both matrices."""
        rows, columns = self._matrices(chainer.as_variable(x).array, x.shape[2:])
        return F.tensordot(F.tensordot(x, rows, axes=((2,), (1,))), columns, axes=((2,), (1,)))

    def record(self, x: Array) -> tuple[Array, Pair]:
        """Keeps the input's (H, W)."""
        rows, columns = self._matrices(x, x.shape[2:])
        return rows @ x @ columns.T, x.shape[2:]

    def reverse(self, signal: Array, record: Pair, rule: Rule) -> Array:
        """The adjoint."""
        rows, columns = self._matrices(signal, record)
        return rows.T @ signal @ columns

    def _matrices(self, like: Array, insize: Pair) -> tuple[Array, ...]:
        return tuple(array_module(like).asarray(self._matrix(axis, size), like.dtype) for axis, size in enumerate(insize))

    def _matrix(self, axis: int, size: int) -> Floats:
        """What share of each input row or column (second axis) each output row or column (first axis) takes."""
        raise NotImplementedError


class TraceableResize2D(Resampling2D):
    """Maps in another size, interpolated; back by the adjoint.

    The ways to interpolate are those of ONNX's ``Resize``; PyTorch's ``interpolate`` has some of them.

    Args:
        factor: By how much rows and columns grow, (rows, columns); sizes are rounded down. Or None.
        outsize: (rows, columns) of the output, if ``factor`` is None.
        mode: ``"nearest"``, ``"linear"`` or ``"cubic"``.
        coordinates: How places go together: ``"half_pixel"`` (edges on edges), ``"pytorch_half_pixel"`` (likewise, but a single
            row shows the first), ``"align_corners"`` (middles of outermost pixels on each other) or ``"asymmetric"`` (first on
            first).
        rounding: To the nearest pixel: ``"floor"``, ``"ceil"``, ``"round_prefer_floor"`` or ``"round_prefer_ceil"``.
        cubic: The coefficient a of cubic interpolation (Keys, 1981).

    Raises:
        ValueError: Unknown choices, a factor of zero or less, both or neither of factor and size.
    """

    def __init__(
        self,
        factor: tuple[float, float] | None = None,
        outsize: Pair | None = None,
        mode: str = "linear",
        coordinates: str = "half_pixel",
        rounding: str = "floor",
        cubic: float = -0.75,
    ) -> None:
        if (factor is None) == (outsize is None) or not all(number > 0 for number in factor or outsize or ()):
            raise ValueError(f"either factor or outsize must be given, above 0, got {factor} and {outsize}")
        if mode not in ("nearest", "linear", "cubic") or coordinates not in _PLACES or rounding not in _ROUNDINGS:
            raise ValueError(f"no such way to interpolate: {mode!r}, {coordinates!r}, {rounding!r}")
        self.factor, self.outsize = factor, outsize
        self.mode, self.coordinates, self.rounding, self.cubic = mode, coordinates, rounding, cubic

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "adjoint of the interpolation"

    def _matrix(self, axis: int, size: int) -> Floats:
        count = self.outsize[axis] if self.outsize else math.floor(size * self.factor[axis])  # type: ignore[index]
        factor = self.factor[axis] if self.factor else count / size
        places = _PLACES[self.coordinates](np.arange(count, dtype=np.float64), size, count, factor)
        if self.mode == "nearest":
            taps, weights = _ROUNDINGS[self.rounding](places)[None], np.ones((1, count))
        elif self.mode == "linear":
            places = places.clip(0, size - 1)
            first = np.floor(places)
            taps, weights = np.stack([first, first + 1]), np.stack([first + 1 - places, places - first])
        else:
            taps = np.floor(places) + np.arange(-1, 3)[:, None]
            weights = self._cubic(abs(places - taps))
        matrix = np.zeros((count, size))
        # Pixels outside are the outermost ones.
        for tap, weight in zip(taps.astype(np.int64).clip(0, size - 1), weights, strict=True):
            matrix[np.arange(count), tap] += weight
        return matrix

    def _cubic(self, distance: Floats) -> Floats:
        """Weights of pixels so far away, below 2 (R. Keys, IEEE Trans. ASSP 29(6), 1981, equation 4, for any a)."""
        a, d = self.cubic, distance
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        return np.where(d <= 1, near, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a)


#: Places in the input of those in the output, given the input's and the output's sizes and the factor between them.
_PLACES: dict[str, Callable[[Floats, int, int, float], Floats]] = {
    "half_pixel": lambda x, size, count, factor: (x + 0.5) / factor - 0.5,
    "pytorch_half_pixel": lambda x, size, count, factor: (x + 0.5) / factor - 0.5 if count > 1 else x * 0,
    "align_corners": lambda x, size, count, factor: x * (size - 1) / max(count - 1, 1),
    "asymmetric": lambda x, size, count, factor: x / factor,
}
_ROUNDINGS: dict[str, Callable[[Floats], Floats]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda places: np.ceil(places - 0.5),
    "round_prefer_ceil": lambda places: np.floor(places + 0.5),
}
