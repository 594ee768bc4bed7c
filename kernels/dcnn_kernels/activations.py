"""Smooth activations, and the ways back through them."""

from __future__ import annotations

from dcnn_kernels.arrays import Array, check_float, check_number, check_shape, select_backend
from dcnn_kernels.dlpack import takes_any_array

#: Activations work on each element, so any rank with a batch axis will do.
RANKS = tuple(range(1, 9))
#: The functions, and which of ``a`` and ``b`` each reads.
FUNCTIONS = {
    "elu": "a",
    "erf": "",
    "gelu": "",
    "gelu_tanh": "",
    "hard_sigmoid": "ab",
    "hard_swish": "",
    "mish": "",
    "sigmoid": "",
    "silu": "",
    "softplus": "a",
    "tanh": "",
}


@takes_any_array
def activation(x: Array, function: str, a: float = 1.0, b: float = 0.0, *, backend: str | None = None) -> Array:
    """Takes a function of each element; NaN stays NaN.

    ========================  ==================================================================================
    ``"elu"``                 x where x > 0, else a·(exp(x) - 1) (Clevert et al., arXiv:1511.07289)
    ``"erf"``                 the error function
    ``"gelu"``                x·(1 + erf(x/√2))/2 (Hendrycks and Gimpel, arXiv:1606.08415)
    ``"gelu_tanh"``           x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2, their approximation
    ``"hard_sigmoid"``        min(max(a·x + b, 0), 1)
    ``"hard_swish"``          x·min(max(x/6 + 1/2, 0), 1) (Howard et al., ICCV 2019)
    ``"mish"``                x·tanh(log(1 + exp(x))) (Misra, arXiv:1908.08681)
    ``"sigmoid"``             1 / (1 + exp(-x))
    ``"silu"``                x / (1 + exp(-x)), also called swish
    ``"softplus"``            log(1 + exp(a·x)) / a
    ``"tanh"``                the hyperbolic tangent
    ========================  ==================================================================================

    Args:
        x: Inputs (B, ...), float32 or float64.
        function: One of the names above.
        a: See above; not read where the function has none. That of softplus isn't 0.
        b: Likewise.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the array.

    Returns:
        Outputs of the same shape and dtype.

    Raises:
        TypeError: ``x`` is no array or of a wrong dtype, or ``a`` or ``b`` is no number.
        ValueError: No such function, or softplus with an ``a`` of 0.
        BackendError: The backend can't run on this array.
    """
    run = select_backend("activations", backend, x=x).activation
    check_float("x", x, RANKS)
    return run(x, *_checked(function, a, b))


@takes_any_array
def activation_gradient(
    x: Array, g: Array, function: str, a: float = 1.0, b: float = 0.0, *, backend: str | None = None
) -> Array:
    """The way back through :func:`activation`, ``g * f'(x)``.

    At their corners hard functions go on as they do outside, and ELU as it does below zero.

    Args:
        x: The activation's inputs (B, ...), float32 or float64; of one sample, (1, ...), they serve all signals.
        g: Signals at its outputs (B, ...), of the same dtype.
        function: As for :func:`activation`.
        a: Likewise.
        b: Likewise.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the arrays.

    Returns:
        Signals at the inputs, of the shape and dtype of ``g``.

    Raises:
        TypeError: An argument is no array or of a wrong dtype, or ``a`` or ``b`` is no number.
        ValueError: A wrong shape, no such function, or softplus with an ``a`` of 0.
        BackendError: The backend can't run on these arrays.
    """
    run = select_backend("activations", backend, x=x, g=g).activation_gradient
    check_float("x", x, RANKS)
    check_float("g", g, x.ndim, like=x)
    check_shape("x", x, (1 if len(x) == 1 else len(g), *g.shape[1:]))
    return run(x, g, *_checked(function, a, b))


def _checked(function: str, a: float, b: float) -> tuple[str, float, float]:
    if function not in FUNCTIONS:
        raise ValueError(f"function must be one of {', '.join(FUNCTIONS)}, got {function!r}")
    a, b = check_number("a", a), check_number("b", b)
    if function == "softplus" and a == 0:
        raise ValueError("a of softplus must not be 0")
    return function, a, b
