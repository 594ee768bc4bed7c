"""The GPU suite's checks: primitives, torch's tensors, cuDNN and the front end on the device, against the same on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import cupy
import numpy as np

import dcnn_kernels as kernels
from benchmarks.gpu_results import SECONDS_OF_RATES, Results, optional, seconds_left, torch_on_device
from dcnn_kernels.activations import FUNCTIONS
from dcnn_kernels.arrays import BackendError
from dcnn_kernels.cuda.settings import engine, precision
from dcnn_kernels.geometry import occlusion_windows

#: Relative error norms allowed, by the arithmetic.
TOLERANCES = {"float64": 1e-12, "float32": 2e-5, "float16": 3e-3, "tf32": 2e-3}


def to_gpu(value: Any) -> Any:
    """Arrays to the device; index arrays of the occluder stay on the host, as the public floor wants them."""
    return cupy.asarray(value) if isinstance(value, np.ndarray) and value.dtype.kind in "fu" else value


def to_host(value: Any) -> Any:
    return tuple(map(to_host, value)) if isinstance(value, tuple) else cupy.asnumpy(value)


class Check(NamedTuple):
    """A call of a primitive, its arrays on the host and their floats float64."""

    primitive: str
    configuration: str
    arrays: tuple[Any, ...]
    settings: dict[str, Any]


def check_cases(random: np.random.Generator, small: bool) -> Iterator[Check]:
    """Calls of every primitive, that together launch every kernel, on fresh random data."""
    height, width, batch, tiles = (13, 11, 2, (8, 16)) if small else (57, 61, 3, (56, 64))

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape)

    x = normal(batch, 24, height, width)
    channel = np.abs(normal(24)) + 0.5
    mask = kernels.relu_mask(x)
    for name in ("relu", "clipped_relu", "leaky_relu"):
        yield Check(name, "", (x,), {})
    yield Check("prelu", "per channel", (x, channel), {})
    yield Check("relu_mask", "", (x,), {})
    yield Check("relu_mask", "z=1", (x,), {"z": 1.0})
    for masked, rectify, slope in (
        (None, False, 0.0),
        (None, True, 0.0),
        (mask, False, 0.0),
        (mask, True, 0.0),
        (mask, False, 0.2),
    ):
        text = f"mask={masked is not None} rectify={rectify} slope={slope}"
        yield Check("relu_reverse", text, (x, masked), {"rectify": rectify, "slope": slope})
    yield Check("relu_reverse", "slope per channel", (x, mask), {"slope": channel})
    for function in FUNCTIONS:
        given = {"function": function, "a": 0.4, "b": 0.3}
        yield Check("activation", function, (x,), given)
        yield Check("activation_gradient", function, (x, x[::-1].copy()), given)
    yield Check("activation_gradient", "silu of one sample", (x[:1], x), {"function": "silu"})
    for rows, text in ((x, "rows of maps"), (x.reshape(batch, 2, -1), "groups")):
        weights = normal(rows.shape[-1])
        yield Check("layer_normalization", text, (rows, weights, weights), {})
        yield Check("layer_normalization_gradient", text, (rows, rows[::-1].copy(), weights), {})
    yield Check("layer_normalization_gradient", "of one sample", (x[:1], x), {"centred": False})
    yield Check("batch_normalization", "", (x, channel, channel, channel, channel), {})
    yield Check("batch_normalization", "(B, C)", (x[:, :, 0, 0], channel, channel, channel, channel), {})
    yield Check("batch_normalization_adjoint", "", (x, channel, channel), {})
    for n in (3, 5, 6, 9, 11):
        yield Check("local_response_normalization", f"n={n}", (x,), {"n": n, "alpha": 0.1})
        yield Check("local_response_normalization_gradient", f"n={n}", (x, x[::-1].copy()), {"n": n, "alpha": 0.1})
    for maps in (x, normal(2, 3, 67, 64)):
        yield Check("global_average_pooling_2d", "x".join(map(str, maps.shape)), (maps,), {})
    yield Check("global_average_pooling_2d_adjoint", "", (normal(batch, 24),), {"insize": (height, width)})
    yield from pooling_cases(
        normal, x, ({"ksize": 3, "stride": 2}, {"ksize": 3, "stride": 2, "pad": 1}, {"ksize": 3, "stride": 1})
    )
    yield from pooling_cases(normal, x, ({"ksize": 2}, {"ksize": (2, 5), "stride": (1, 3)}, {"ksize": 17, "stride": 5, "pad": 8}))
    yield from pooling_cases(normal, normal(batch, 24, *tiles), ({"ksize": 2},))
    yield Check("linear", "", (normal(5, 70), normal(33, 70), normal(33)), {})
    yield Check("linear_adjoint", "", (normal(5, 33), normal(33, 70)), {})
    windows = occlusion_windows((height, width), 5, 4).reshape(-1, 4)
    yield Check("occlude", "", (x[0], windows, normal(24, 1, 1)), {})
    yield Check("occlude", "by a number", (x[0], windows, 0.5), {})
    yield from patch_cases(normal, x)
    yield from convolution_cases(normal, x)


def pooling_cases(normal: Callable[..., np.ndarray], x: np.ndarray, windows: tuple[dict[str, Any], ...]) -> Iterator[Check]:
    """Pooling of pictures and all that leads back to them."""
    picture, mask = x.shape[2:], kernels.relu_mask(x)
    before = kernels.relu_mask(normal(len(x), 16, *picture))
    for window in windows:
        text = f"{'x'.join(map(str, picture))} " + " ".join(f"{key}={value}" for key, value in window.items())
        yield Check("max_pooling_2d", text, (x,), window)
        yield Check("max_pooling_2d", f"{text} mask", (x,), {**window, "mask": True})
        y, switches = kernels.max_pooling_2d(x, **window, backend="reference")
        for mode in ("switch", "center", "spread"):
            given = {**window, "mode": mode, "outsize": picture, "switches": switches if mode == "switch" else None}
            yield Check("unpooling_2d", f"{mode} {text}", (y,), given)
            yield Check("unpooling_2d", f"{mode} {text} mask rectify", (y,), {**given, "mask": mask, "rectify": True})
        pool = {f"pool_{key}": value for key, value in window.items()}
        for masked in (None, mask):
            given = {**pool, "insize": picture, "pad": 1, "pool_mask": masked, "pool_rectify": masked is not None}
            W, text_of_mask = normal(x.shape[1], 16, 3, 3), f"{text} mask={masked is not None}"
            yield Check("unpooled_transposed_convolution_2d", text_of_mask, (y, switches, W), given)
            given |= {"mask": before, "rectify": masked is None}
            yield Check("unpooled_transposed_convolution_2d", f"{text_of_mask} rectified", (y, switches, W), given)
        for counted in (True, False):
            given = {**window, "count_include_pad": counted}
            yield Check("average_pooling_2d", f"{text} count_include_pad={counted}", (x,), given)
            averages = kernels.average_pooling_2d(x, **given, backend="reference")
            yield Check("average_pooling_2d_adjoint", f"{text} {counted}", (averages,), {**given, "insize": picture})


def patch_cases(normal: Callable[..., np.ndarray], x: np.ndarray) -> Iterator[Check]:
    """Patches of three places, and what layers make of them."""
    before, patches, filters = x[:1], normal(3, x.shape[1], 5, 6), normal(16, x.shape[1], 3, 3)
    origins, outputs = np.array([[0, 0], [4, 3], [2, 5]]), np.array([[0, 0], [2, 1], [1, 2]])
    yield Check("crop_patches", "", (x, np.array([0, 1, 1]), origins - 2), {"size": (7, 8), "fill": 0.5})
    for stride in (1, 2):
        given = {"outsize": (5, 6), "stride": stride}
        yield Check("convolve_patches", f"stride={stride}", (patches, np.full((3, 2), -1), filters), given)
    after = kernels.max_pooling_2d(before, 2, backend="reference")[0]
    given = {"outsize": (3, 4), "ksize": 2, "stride": 2}
    yield Check("max_pool_patches", "ksize=2", (patches, origins, before, after, outputs), given)
    yield Check("rectify_patches", "z=6 slope=0.1", (patches, origins, before), {"z": 6.0, "slope": 0.1})


def convolution_cases(normal: Callable[..., np.ndarray], x: np.ndarray) -> Iterator[Check]:
    """Convolutions and their transposes, by each kernel."""
    same = {"pad": 1}
    for source, W_shape, settings in (
        (x, (48, 24, 3, 3), {}),
        (x, (48, 24, 3, 3), same),
        (x, (48, 24, 3, 3), {"stride": 2, "pad": ((0, 1), (1, 0))}),
        (x, (48, 24, 3, 3), {"dilate": 2, "pad": 2}),
        (x, (48, 12, 3, 3), {"groups": 2, **same}),
        (x, (48, 1, 3, 3), {"groups": 24, **same}),
        (x, (24, 1, 3, 3), {"groups": 24, **same}),
        (x, (24, 1, 5, 5), {"groups": 24, "stride": 2, "pad": 2}),
        (x[:, :3], (48, 3, 3, 3), same),
        (x, (3, 24, 3, 3), same),
        (normal(2, 40, 8, 8), (33, 40, 1, 1), {}),
        (normal(2, 257, 3, 3), (17, 257, 3, 3), same),
    ):
        text = f"{'x'.join(map(str, W_shape))} " + " ".join(f"{key}={value}" for key, value in settings.items())
        W, b, c = normal(*W_shape), normal(W_shape[0]), normal(source.shape[1])
        yield Check("convolution_2d", text, (source, W, b), settings)
        yield Check("convolution_2d", f"{text} z=6", (source, W, b), {**settings, "z": 6.0})
        scaling = {"scale": normal(W_shape[0]), "shift": normal(W_shape[0])}
        yield Check("convolution_2d", f"{text} z=6 scaled", (source, W, b), {**settings, **scaling, "z": 6.0})
        g = normal(*kernels.convolution_2d(source, W, **settings, backend="reference").shape)
        given = {**settings, "outsize": source.shape[2:]}
        yield Check("transposed_convolution_2d", text, (g, W, c), given)
        mask = kernels.relu_mask(source, backend="reference")
        yield Check("transposed_convolution_2d", f"{text} mask rectify", (g, W, c), {**given, "mask": mask, "rectify": True})


def error_norm(got: Any, expected: Any) -> float:
    """||got - expected|| / ||expected||, the largest over several outputs; integers must be equal."""
    if isinstance(got, tuple):
        return max(error_norm(one, other) for one, other in zip(got, expected, strict=True))
    if got.dtype.kind == "u":
        return 0.0 if np.array_equal(got, expected) else math.inf
    difference = got.astype(np.float64) - expected
    return float(np.linalg.norm(difference) / max(float(np.linalg.norm(expected)), 1e-30))


def converted(check: Check, dtype: str) -> Check:
    """The same with floats of another dtype."""

    def convert(value: Any) -> Any:
        return value.astype(dtype) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value

    settings = {name: convert(value) for name, value in check.settings.items()}
    return check._replace(arrays=tuple(map(convert, check.arrays)), settings=settings)


def on_gpu(check: Check) -> Any:
    arrays, settings = map(to_gpu, check.arrays), {name: to_gpu(value) for name, value in check.settings.items()}
    return to_host(getattr(kernels, check.primitive)(*arrays, **settings))


def check_primitives(
    results: Results, random: np.random.Generator, small: bool, whose: str = "own", only: Sequence[str] = ("",)
) -> None:
    """Each primitive in each dtype against the reference in float64, fed with the very numbers that the GPU was fed.

    Args:
        results: What is found goes there.
        random: Of the data.
        small: Whether on small shapes, and without what isn't ours to sanitize.
        whose: The engine that convolves.
        only: Parts of the names of the primitives to check.
    """
    for check in check_cases(random, small):
        convolution = "convol" in check.primitive
        if (small and check.primitive.startswith("linear")) or not any(part in check.primitive for part in only):
            continue  # cuBLAS's kernels aren't ours to sanitize
        if whose == "cudnn" and not convolution:
            continue
        if seconds_left() < SECONDS_OF_RATES:
            results.add("check" if whose == "own" else whose, configuration="no time for the rest")
            return
        for arithmetic in ("float64", "float32", "float16", *(("tf32",) if convolution else ())):
            if whose == "own" or arithmetic != "float64":
                with results.going_on("check", f"{check.primitive} {check.configuration} {arithmetic}"):
                    check_primitive(results, check, arithmetic, whose)


def check_primitive(results: Results, check: Check, arithmetic: str, whose: str) -> None:
    """One primitive in one dtype."""
    rounded = converted(check, "float32" if arithmetic == "tf32" else arithmetic)
    # Of equal maxima, and of 0 and a number that rounds to it, float64 would choose otherwise.
    exact = "float32" if check.primitive in ("max_pooling_2d", "relu_mask") and arithmetic != "float64" else "float64"
    wide = converted(rounded, exact)
    expected = getattr(kernels, check.primitive)(*wide.arrays, **wide.settings, backend="reference")
    try:
        with precision("tf32" if arithmetic == "tf32" else "exact"), engine(whose):
            error = error_norm(on_gpu(rounded), expected)
    except BackendError as refusal:
        results.add("cudnn", configuration=f"{check.primitive} {check.configuration}: {refusal}", dtype=arithmetic)
        return
    results.add(
        "check" if whose == "own" else whose,
        configuration=f"{check.primitive} {check.configuration}".strip(),
        shape="x".join(map(str, check.arrays[0].shape)),
        dtype=arithmetic,
        measure="relative error norm",
        value=error,
        passed=error <= TOLERANCES[arithmetic],
    )


def check_cudnn(results: Results, random: np.random.Generator) -> None:
    """Convolutions by cuDNN against the reference."""
    if optional("cudnn") is None:
        results.add("cudnn", configuration="nvidia-cudnn-frontend is not installed: left out")
    else:
        check_primitives(results, random, small=False, whose="cudnn")


def check_torch(results: Results, random: np.random.Generator) -> None:
    """Tensors of torch on the device: results are tensors, equal to CuPy's, in the order of torch's current stream."""
    torch = torch_on_device(results, "torch")
    if torch is None:
        return

    def to_torch(value: Any) -> Any:
        return torch.from_numpy(value).cuda() if isinstance(value, np.ndarray) and value.dtype.kind in "fu" else value

    side = torch.cuda.Stream()
    for check in check_cases(random, small=True):
        if seconds_left() < SECONDS_OF_RATES:
            results.add("torch", configuration="no time for the rest")
            return
        check = converted(check, "float32")
        name = f"{check.primitive} {check.configuration}".strip()
        with results.going_on("torch", name):
            with engine("own"), torch.cuda.stream(side):
                settings = {name: to_torch(value) for name, value in check.settings.items()}
                got = getattr(kernels, check.primitive)(*map(to_torch, check.arrays), **settings)
                tensors = got if isinstance(got, tuple) else (got,)
                kept = all(type(tensor) is torch.Tensor and tensor.is_cuda for tensor in tensors)
                values = tuple(tensor.cpu().numpy() for tensor in tensors)
            with engine("own"):
                expected = on_gpu(check)
            error = error_norm(values if isinstance(got, tuple) else values[0], expected)
            passed = kept and error < 1e-6
            results.add("torch", configuration=name, measure="relative error norm to CuPy's", value=error, passed=passed)
    with torch.cuda.stream(side):
        x, y = (torch.randn(4096, 4096, device="cuda") for _ in range(2))
        for _ in range(20):
            x = x @ y / 64  # is still under way when the kernel is launched
        passed = bool(torch.equal(kernels.relu(x), torch.relu(x)))
    results.add("torch", configuration="a kernel waits for torch's stream", passed=passed)


def check_front_end(results: Results) -> None:
    """Projections and occlusion of a small network on the GPU against the same on the CPU, and with little memory."""
    if optional("dcnn_visualizer.chainer_compat") is None:
        results.add("front end", configuration="Chainer is not installed: left out")
        return
    import dcnn_visualizer.traceable_nodes as tn
    from dcnn_visualizer.traceable_chain import TraceableChain, TraceableResidual

    block = TraceableChain(conv=tn.TraceableConvolution2D(16, 16, 3, pad=1), relu=tn.TraceableReLU())
    model = TraceableChain(
        conv1=tn.TraceableConvolution2D(3, 16, 3, pad=1),
        relu1=tn.TraceableReLU(),
        pool1=tn.TraceableMaxPooling2D(3, 2),
        lrn1=tn.TraceableLocalResponseNormalization(),
        block=TraceableResidual(block),
        fc=tn.TraceableLinear(None, 10),
    )
    x = np.random.default_rng().standard_normal((32, 3, 32, 32)).astype(np.float32)
    model(x)  # The shape of the last layer's weights is known from here.
    for check in (check_answers, check_graphs, check_little_memory):
        with results.going_on("front end", check.__name__):
            check(results, model, x)


def check_answers(results: Results, model: Any, x: np.ndarray) -> None:
    """Projections and occlusion on the GPU against the same on the CPU; leaves the model on the GPU."""
    from dcnn_visualizer.desalinet import DeconvNet, DeSaliNet, SaliNet
    from dcnn_visualizer.occlusion import SaliencyVisualizer

    answers: list[list[np.ndarray]] = []
    for device, given in (("@numpy", x[:2]), ("@cupy:0", cupy.asarray(x[:2]))):
        model.to_device(device)
        projections = [method(model).analyze(given, "block", [1, (2, 3, 4)]) for method in (SaliNet, DeconvNet, DeSaliNet)]
        saliency = SaliencyVisualizer(model).analyze(given[0], "fc", 5, 4)
        assert all(type(array) is type(given) for array in (*projections, saliency.data))  # type: ignore[union-attr]
        answers.append([cupy.asnumpy(array) for array in (*projections, saliency.data)])  # type: ignore[union-attr]
    for name, got, expected in zip(("SaliNet", "DeconvNet", "DeSaliNet", "occlusion"), *reversed(answers), strict=True):
        error = error_norm(got, expected)
        results.add("front end", configuration=name, measure="relative error norm", value=error, passed=error < 1e-4)


def check_graphs(results: Results, model: Any, x: np.ndarray) -> None:
    """CUDA graphs give the very same as kernels launched one by one."""
    from dcnn_kernels.cuda.settings import graphs
    from dcnn_visualizer.desalinet import SaliNet

    model.to_device("@cupy:0")
    for number in range(5):
        # From the third picture on both ways are CUDA graphs.
        picture = cupy.asarray(x[number : number + 1])
        answers: list[list[np.ndarray]] = []
        for enabled in (True, False):
            with graphs(enabled):
                answers.append([cupy.asnumpy(SaliNet(model).analyze(picture, "block", channel)) for channel in (1, 3)])
            SaliNet(model).analyze(cupy.asarray(x[-1:]), "lrn1")  # recorded in the place of this picture
        passed = all(np.array_equal(*both) for both in zip(*answers, strict=True))
        results.add("front end", configuration=f"CUDA graphs, picture {number}: the very same without", passed=passed)


def check_little_memory(results: Results, model: Any, x: np.ndarray) -> None:
    """With too little memory for all pictures at once, a batch is halved and the answer the same."""
    from dcnn_visualizer.desalinet import SaliNet

    model.to_device("@cupy:0")
    pool, given, salinet = cupy.get_default_memory_pool(), cupy.asarray(x), SaliNet(model)

    def forget() -> int:
        """The recording of one picture takes the place of the last; gives the bytes in use then."""
        salinet.analyze(given[:1], "block")
        pool.free_all_blocks()
        return pool.used_bytes()

    used = forget()
    expected = salinet.analyze(given, "block").get()
    peak = pool.total_bytes()
    forget()
    pool.set_limit(size=used + (peak - used) * 6 // 10)
    try:
        got = salinet.analyze(given, "block").get()
    finally:
        pool.set_limit(size=0)
    error = error_norm(got, expected)
    results.add("front end", configuration="too little memory", measure="relative error norm", value=error, passed=error < 1e-5)
