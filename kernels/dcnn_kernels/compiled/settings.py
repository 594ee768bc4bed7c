"""How convolutions are computed where there is a choice. The setting holds for the thread (or task) that makes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

ALGORITHMS = ("auto", "products", "sparse", "winograd")

_algorithm = ContextVar("dcnn_kernels algorithm", default="auto")


@contextmanager
def algorithm(name: str) -> Iterator[None]:
    """Chooses how sums over windows are made.

    Args:
        name: ``"products"``: term by term, as the definition has it. ``"sparse"``: on the way back of some signals that share
            their masks, without the terms that are zero in all of them. ``"winograd"``: windows of 3 by 3 at stride 1 by
            Winograd's F(4x4, 3x3), a quarter of the products; in float32 errors of 512 channels stay below 1e-5 of the layer's
            largest value, where sums term by term come to half of that. An infinite or NaN value spoils its tile, not its
            windows only. ``"auto"``, the default: the fastest by its cost, Winograd in float32 only. Where one can't be had,
            sums are made term by term.

    Raises:
        ValueError: Another name.
    """
    if name not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {ALGORITHMS}, got {name!r}")
    token = _algorithm.set(name)
    try:
        yield
    finally:
        _algorithm.reset(token)


def current_algorithm() -> str:
    """The name last chosen by :func:`algorithm`."""
    return _algorithm.get()
