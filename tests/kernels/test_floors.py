"""One primitive, one name and one signature on every floor."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import dcnn_kernels
from dcnn_kernels.arrays import COMPILED
from tests.kernels.device import BACKEND, host_only, kernels

PRIMITIVES = sorted(set(dcnn_kernels.__all__) - {"BackendError"})
#: A call of each primitive.
x, W, switches = np.ones((2, 3, 4, 4)), np.ones((3, 3, 1, 1)), np.zeros((2, 3, 2, 2), np.uint8)
flat, channel = x[..., 0, 0], np.ones(3)
places = np.zeros((2, 2), np.int64)
CALLS = {
    "activation": (x, "silu"),
    "activation_gradient": (x, x, "silu"),
    "average_pooling_2d": (x, 2),
    "average_pooling_2d_adjoint": (x, 8, 2),
    "batch_normalization": (x, channel, channel, channel, channel),
    "batch_normalization_adjoint": (x, channel, channel),
    "clipped_relu": (x,),
    "convolution_2d": (x, W),
    "convolve_patches": (x, places, W, 4),
    "crop_patches": (x, places[:, 0], places, 2),
    "global_average_pooling_2d": (x,),
    "global_average_pooling_2d_adjoint": (flat, 4),
    "layer_normalization": (x,),
    "layer_normalization_gradient": (x, x),
    "leaky_relu": (x,),
    "linear": (flat, W[..., 0, 0]),
    "linear_adjoint": (flat, W[..., 0, 0]),
    "local_response_normalization": (x,),
    "local_response_normalization_gradient": (x, x),
    "max_pool_patches": (x, places, x[:1], x[:1, :, ::2, ::2], places, 2, 2, 2),
    "max_pooling_2d": (x, 2),
    "occlude": (x[0], np.array([[0, 0, 1, 1]]), 0.0),
    "patch_form": (W, 3, 5),
    "prelu": (x, channel),
    "rectify_patches": (x, places, x[:1]),
    "relu": (x,),
    "relu_mask": (x,),
    "relu_reverse": (x,),
    "transposed_convolution_2d": (x, W),
    "unpooled_transposed_convolution_2d": (x[..., :2, :2], switches, W, 4, 2),
    "unpooling_2d": (x[..., :2, :2], 4, 2, None, 0, switches),
}


def floors(name):
    """The public function and the reference of the same name, from modules of the same name."""
    public = getattr(dcnn_kernels, name)
    module = public.__module__.removeprefix("dcnn_kernels.")
    return public, getattr(importlib.import_module(f"dcnn_kernels.reference.{module}"), name)


def test_the_package_exports_the_primitives_and_the_error_and_nothing_else():
    assert sorted(CALLS) == PRIMITIVES
    assert dcnn_kernels.__all__ == sorted(dcnn_kernels.__all__, key=lambda name: (name.islower(), name))
    public = {name: value for name, value in vars(dcnn_kernels).items() if not name.startswith("_")}
    assert {name for name, value in public.items() if not inspect.ismodule(value)} == set(dcnn_kernels.__all__)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_signatures_agree_but_for_the_backend(name):
    public, reference = (inspect.signature(function).parameters for function in floors(name))
    backend = public["backend"]
    assert (backend.kind, backend.default) == (inspect.Parameter.KEYWORD_ONLY, None)
    assert [key for key in public if key != "backend"] == list(reference)
    assert {public[key].kind for key in reference} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert {reference[key].kind for key in reference} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


@pytest.mark.parametrize("floor", ["compiled", "cuda"])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_the_other_floors_have_the_signatures_of_the_reference(name, floor):
    """Read, not imported: they import Numba and CuPy."""
    reference = floors(name)[1]
    path = Path(dcnn_kernels.__file__).parent / floor / Path(inspect.getfile(reference)).name
    assert path.exists() == (floor == "cuda" or path.stem in COMPILED)
    if not path.exists():
        return
    functions = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)]
    other = next(node for node in functions if node.name == name)
    assert [argument.arg for argument in other.args.args] == list(inspect.signature(reference).parameters)
    others = (other.args.posonlyargs, other.args.vararg, other.args.kwonlyargs, other.args.kwarg, other.args.defaults)
    assert not any(others)
    assert ast.get_docstring(other)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_every_argument_and_annotation_is_documented(name):
    public, reference = floors(name)
    signature, documentation = inspect.signature(public), inspect.getdoc(public)
    assert inspect.Signature.empty not in {signature.return_annotation, *(p.annotation for p in signature.parameters.values())}
    described = re.findall(r"^    (\w+): ", documentation.partition("\nArgs:\n")[2].partition("\nReturns:\n")[0], re.MULTILINE)
    assert described == list(signature.parameters)
    assert "\nRaises:\n" in documentation
    assert inspect.getdoc(reference)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_the_backend_can_be_forced_and_one_that_cannot_run_is_an_error(name):
    function, arguments = getattr(dcnn_kernels, name), CALLS[name]
    same = getattr(kernels, name)
    module = function.__module__.removeprefix("dcnn_kernels.")
    floor = "reference" if BACKEND == "compiled" and module not in COMPILED else BACKEND
    results = (_tuple(same(*arguments, backend=backend)) for backend in (floor, None))
    for forced, followed in zip(*results, strict=True):
        if isinstance(forced, str):
            assert forced == followed
            continue
        np.testing.assert_allclose(forced, followed, rtol=1e-12)
    owner, other = ("cuda", "reference") if BACKEND == "cuda" else ("reference", "cuda")
    with pytest.raises(dcnn_kernels.BackendError, match=f"'{other}' was forced, but the arrays belong to '{owner}'"):
        same(*arguments, backend=other)
    with pytest.raises(ValueError, match="backend must be one of"):
        function(*arguments, backend="tpu")


@pytest.mark.parametrize("name", PRIMITIVES)
def test_lists_are_refused(name):
    function, (first, *rest) = getattr(kernels, name), CALLS[name]
    with pytest.raises(TypeError, match=r"expected a numpy\.ndarray or a cupy\.ndarray, got builtins\.list"):
        function(first.tolist(), *rest)


@host_only
@pytest.mark.parametrize("name", PRIMITIVES)
def test_half_precision_is_refused(name):
    function, (first, *rest) = getattr(dcnn_kernels, name), CALLS[name]
    with pytest.raises(TypeError, match="must be of dtype float32 or float64, got float16"):
        function(first.astype(np.float16), *rest)


def _tuple(result):
    return result if isinstance(result, tuple) else (result,)
