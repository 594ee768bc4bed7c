"""Everything that only a GPU can show, in one call: correctness, sanitizers, the front end, and rates beside their ceilings.

    python benchmarks/gpu_suite.py --output benchmarks/results

Checks come first: every primitive on fresh random data against its NumPy reference in float64, the front end end to end, and
compute-sanitizer on small shapes. Then the benchmarks: memory-bound primitives against a measured copy, and each convolution of
VGG16, forward and transposed, against torch's cuDNN where torch is installed, else against cuBLAS's matrix product of the same
arithmetic. What isn't installed is named and left out. Writes one CSV a device and ends with status 1 if a check failed.
"""

from __future__ import annotations

import argparse
import csv
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import cupy  # noqa: E402

import dcnn_kernels as kernels  # noqa: E402
from benchmarks import elementwise  # noqa: E402
from benchmarks.convolution import VGG16  # noqa: E402
from dcnn_kernels.cuda.settings import engine, precision  # noqa: E402
from dcnn_kernels.geometry import occlusion_windows  # noqa: E402

FIELDS = ("job", "configuration", "shape", "dtype", "measure", "value", "low", "high", "peer", "peer_value", "ratio", "passed")
VERSIONS = ("device", "cupy", "numpy", "python", "cuda", "driver")
#: Relative error norms allowed, by the arithmetic.
TOLERANCES = {"float64": 1e-12, "float32": 2e-5, "float16": 3e-3, "tf32": 2e-3}


#: Median, 20th and 80th percentile, in seconds.
Times = tuple[float, float, float]


class Results:
    """The rows, and whether all checks passed."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, job: str, **fields: Any) -> None:
        """Keeps a row and prints it."""
        self.rows.append({"job": job, **fields})
        text = " ".join(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in fields.items())
        print(f"{job}: {text}", flush=True)

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The rows of checks that failed."""
        return [row for row in self.rows if row.get("passed") is False]


def to_gpu(value: Any) -> Any:
    """Arrays to the device; index arrays of the occluder stay on the host, as the public floor wants them."""
    return cupy.asarray(value) if isinstance(value, np.ndarray) and value.dtype.kind in "fu" else value


def to_host(value: Any) -> Any:
    return tuple(map(to_host, value)) if isinstance(value, tuple) else value.get()


# -- Checks ------------------------------------------------------------------------------------------------------------------


def check_cases(small: bool) -> Iterator[tuple[str, str, tuple[Any, ...], dict[str, Any]]]:
    """(primitive, configuration, arrays, settings) on fresh random data; floats as float64."""
    random = np.random.default_rng()
    height, width, batch = (13, 11, 2) if small else (57, 61, 3)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape)

    x = normal(batch, 24, height, width)
    channel = np.abs(normal(24)) + 0.5
    for name in ("relu", "clipped_relu", "leaky_relu"):
        yield name, "", (x,), {}
    yield "prelu", "per channel", (x, channel), {}
    yield "relu_mask", "", (x,), {}
    mask = kernels.relu_mask(x)
    for masked in (None, mask):
        for rectify in (False, True):
            yield "relu_reverse", f"mask={masked is not None} rectify={rectify}", (x, masked), {"rectify": rectify}
    yield "batch_normalization", "", (x, channel, channel, channel, channel), {}
    yield "batch_normalization_adjoint", "", (x, channel, channel), {}
    for n in (3, 5, 6, 9):
        yield "local_response_normalization", f"n={n}", (x,), {"n": n, "alpha": 0.1}
        yield "local_response_normalization_gradient", f"n={n}", (x, x[::-1].copy()), {"n": n, "alpha": 0.1}
    yield "global_average_pooling_2d", "", (x,), {}
    yield "global_average_pooling_2d_adjoint", "", (normal(batch, 24),), {"insize": (height, width)}
    for window in (
        {"ksize": 2},
        {"ksize": 3, "stride": 2},
        {"ksize": 3, "stride": 2, "pad": 1},
        {"ksize": (2, 5), "stride": (1, 3)},
    ):
        text = " ".join(f"{key}={value}" for key, value in window.items())
        yield "max_pooling_2d", text, (x,), window
        y, switches = kernels.max_pooling_2d(x, **window)
        for mode in ("switch", "center", "spread"):
            given = {"switches": switches} if mode == "switch" else {}
            yield "unpooling_2d", f"{mode} {text}", (y,), {**window, **given, "outsize": (height, width), "mode": mode}
        fused = {**window, "switches": switches, "outsize": (height, width), "mask": mask, "rectify": True}
        yield "unpooling_2d", f"switch {text} mask rectify", (y,), fused
        pool = {f"pool_{key}": value for key, value in window.items()}
        for masked in (None, mask):
            given = {**pool, "insize": (height, width), "pad": 1, "mask": masked, "rectify": masked is not None}
            text_of_mask = f"{text} mask={masked is not None}"
            yield "unpooled_transposed_convolution_2d", text_of_mask, (y, switches, normal(24, 16, 3, 3)), given
        yield "average_pooling_2d", text, (x,), window
        averages = kernels.average_pooling_2d(x, **window)
        yield "average_pooling_2d_adjoint", text, (averages,), {**window, "insize": (height, width)}
    yield "linear", "", (normal(5, 70), normal(33, 70), normal(33)), {}
    yield "linear_adjoint", "", (normal(5, 33), normal(33, 70)), {}
    windows = occlusion_windows((height, width), 5, 4).reshape(-1, 4)
    yield "occlude", "", (x[0], windows, normal(24, 1, 1)), {}
    for settings in (
        {},
        {"pad": 1},
        {"stride": 2, "pad": ((0, 1), (1, 0))},
        {"dilate": 2, "pad": 2},
        {"groups": 2, "pad": 1},
        {"groups": 24, "pad": 1},
    ):
        text = " ".join(f"{key}={value}" for key, value in settings.items())
        groups = settings.get("groups", 1)
        W, b = normal(48, 24 // groups, 3, 3), normal(48)
        yield "convolution_2d", text, (x, W, b), settings
        g = normal(*kernels.convolution_2d(x, W, **settings).shape)
        yield "transposed_convolution_2d", text, (g, W), {**settings, "outsize": (height, width)}


def error_norm(got: Any, expected: Any) -> float:
    """||got - expected|| / ||expected||, the largest over several outputs; integers must be equal."""
    if isinstance(got, tuple):
        return max(error_norm(one, other) for one, other in zip(got, expected, strict=True))
    if got.dtype.kind == "u":
        return float((got != expected).mean())
    difference = got.astype(np.float64) - expected
    return float(np.linalg.norm(difference) / max(np.linalg.norm(expected), 1e-30))


def check_primitives(results: Results, small: bool) -> None:
    """Each primitive in each dtype against the reference in float64, fed with the very numbers that the GPU was fed."""
    for name, configuration, arrays, settings in check_cases(small):
        convolution = "convolution" in name
        for arithmetic in ("float64", "float32", "float16", *(("tf32",) if convolution else ())):
            dtype = "float32" if arithmetic == "tf32" else arithmetic
            rounded = [a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in arrays]
            exact = [a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in rounded]
            primitive = getattr(kernels, name)
            if name in ("max_pooling_2d", "relu_mask") and dtype != "float64":
                exact = [a.astype(np.float32) for a in exact]  # the same ties
            expected = primitive(*exact, **settings)
            with precision("tf32" if arithmetic == "tf32" else "exact"), engine("own"):
                got = to_host(primitive(*map(to_gpu, rounded), **{key: to_gpu(value) for key, value in settings.items()}))
            error = error_norm(got, expected)
            results.add(
                "check",
                configuration=f"{name} {configuration}".strip(),
                shape="x".join(map(str, arrays[0].shape)),
                dtype=arithmetic,
                measure="relative error norm",
                value=error,
                passed=bool(error <= TOLERANCES[arithmetic]),
            )


def check_front_end(results: Results) -> None:
    """Projections and occlusion of a small network on the GPU against the same on the CPU."""
    import dcnn_visualizer.chainer_compat  # noqa: F401
    import dcnn_visualizer.traceable_nodes as tn
    from dcnn_visualizer.desalinet import DeconvNet, DeSaliNet, SaliNet
    from dcnn_visualizer.occlusion import SaliencyVisualizer
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
    x = np.random.default_rng().standard_normal((2, 3, 32, 32)).astype(np.float32)
    answers: list[list[np.ndarray]] = []
    model(x)  # The shape of the last layer's weights is known from here.
    for device, given in (("@numpy", x), ("@cupy:0", cupy.asarray(x))):
        model.to_device(device)
        projections = [method(model).analyze(given, "block", [1, (2, 3, 4)]) for method in (SaliNet, DeconvNet, DeSaliNet)]
        saliency = SaliencyVisualizer(model).analyze(given[0], "fc", 5, 4)
        assert all(type(array) is type(given) for array in (*projections, saliency.data))  # type: ignore[union-attr]
        answers.append([cupy.asnumpy(array) for array in (*projections, saliency.data)])  # type: ignore[union-attr]
    for name, got, expected in zip(("SaliNet", "DeconvNet", "DeSaliNet", "occlusion"), *reversed(answers), strict=True):
        error = error_norm(got, expected)
        results.add("front end", configuration=name, measure="relative error norm", value=error, passed=bool(error < 1e-4))


def check_accelerated_chainer(results: Results) -> None:
    """Chainer's own convolution on CuPy: that it runs, and what ours in its place changes."""
    import chainer
    import chainer.functions as F

    import dcnn_visualizer
    import dcnn_visualizer.chainer_compat

    random = np.random.default_rng()
    x = cupy.asarray(random.standard_normal((8, 64, 56, 56)).astype(np.float32))
    W = cupy.asarray(random.standard_normal((64, 64, 3, 3)).astype(np.float32))

    def plain() -> Any:
        with chainer.no_backprop_mode():
            return F.convolution_2d(x, W, pad=1).array

    def accelerated() -> Any:
        with dcnn_visualizer.accelerate():
            return plain()

    error = error_norm(accelerated().get(), plain().get().astype(np.float64))
    (ours, *_), (theirs, *_) = alternate(accelerated, plain)
    results.add(
        "accelerate",
        configuration="F.convolution_2d 3x3",
        shape="8x64x56x56",
        dtype="float32",
        measure="ms",
        value=ours * 1e3,
        peer="Chainer's im2col",
        peer_value=theirs * 1e3,
        ratio=theirs / ours,
        passed=bool(error < 1e-4),
    )


def check_sanitizers(results: Results) -> None:
    """compute-sanitizer over the checks on small shapes."""
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if program is None:
        results.add("sanitizer", configuration="compute-sanitizer is not installed: left out")
        return
    for tool in ("memcheck", "racecheck"):
        command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, __file__, "--small"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        if run.returncode:
            print(run.stdout[-3000:], run.stderr[-3000:])
        results.add("sanitizer", configuration=tool, measure="exit status", value=run.returncode, passed=run.returncode == 0)


# -- Benchmarks --------------------------------------------------------------------------------------------------------------


def alternate(*calls: Callable[[], Any], seconds: float = 0.15) -> list[Times]:
    """Medians, 20th and 80th percentiles of GPU seconds of several calls, timed by events in turn after a warm-up."""
    for call in calls:
        for _ in range(3):
            call()
    times: list[list[float]] = [[] for _ in calls]
    cupy.cuda.Device().synchronize()
    start = time.perf_counter()
    while time.perf_counter() - start < seconds * len(calls) or len(times[0]) < 5:
        for call, taken in zip(calls, times, strict=True):
            before, after = cupy.cuda.Event(), cupy.cuda.Event()
            before.record()
            call()
            after.record()
            after.synchronize()
            taken.append(cupy.cuda.get_elapsed_time(before, after) / 1e3)
    return [tuple(np.percentile(taken, (50, 20, 80))) for taken in times]  # type: ignore[misc]


def measure_memory_bound(results: Results, batch: int) -> None:
    """Bytes of inputs and outputs a second, each counted once, as a share of a copy's."""
    for case in elementwise.cases(batch, "float32"):
        if case.primitive.startswith("linear"):
            continue
        on_gpu = case.on(to_gpu)
        output = on_gpu.call()
        outputs = output if isinstance(output, tuple) else (output,)
        moved = sum(array.nbytes for array in (*on_gpu.reads, *outputs))
        source, target = cupy.ones((2, moved // 16))
        (ours, low, high), (copy, *_) = alternate(on_gpu.call, lambda s=source, t=target: cupy.copyto(t, s))
        results.add(
            "memory",
            configuration=f"{case.primitive} {case.configuration}".strip(),
            shape="x".join(map(str, case.reads[0].shape)),
            dtype="float32",
            measure="GB/s",
            value=moved / ours / 1e9,
            low=moved / high / 1e9,
            high=moved / low / 1e9,
            peer="copy",
            peer_value=moved / copy / 1e9,
            ratio=copy / ours,
        )


def measure_convolutions(results: Results, batch: int) -> None:
    """TFLOP/s of VGG16's convolutions, forward, transposed and transposed from a pooled signal."""
    try:
        import torch
    except ImportError:
        torch = None
        results.add("convolution", configuration="torch is not installed: its cuDNN is left out")
    for layer, (channels, filters, size) in VGG16.items():
        for arithmetic in ("exact", "tf32", "float16"):
            flop = 2 * 9 * batch * channels * filters * size * size
            with precision("tf32" if arithmetic == "tf32" else "exact"), engine("own"):
                for job, (ours, low, high), peer, (theirs, *_) in time_layer(torch, batch, channels, filters, size, arithmetic):
                    results.add(
                        "convolution",
                        configuration=f"{layer} {job}",
                        shape=f"{batch}x{channels}x{size}x{size} to {filters}",
                        dtype=arithmetic,
                        measure="TFLOP/s",
                        value=flop / ours / 1e12,
                        low=flop / high / 1e12,
                        high=flop / low / 1e12,
                        peer=peer,
                        peer_value=flop / theirs / 1e12,
                        ratio=theirs / ours,
                    )


def time_layer(
    torch: Any, batch: int, channels: int, filters: int, size: int, arithmetic: str
) -> list[tuple[str, Times, str, Times]]:
    """(job, our times, peer, its times) of one layer, 3x3 with pad 1."""
    random = np.random.default_rng(0)
    dtype = "float16" if arithmetic == "float16" else "float32"
    x, W, g = (
        cupy.asarray(random.standard_normal(shape, np.float32).astype(dtype))
        for shape in ((batch, channels, size, size), (filters, channels, 3, 3), (batch, filters, size, size))
    )
    pooled, switches = kernels.max_pooling_2d(g, 2)
    insize = (size, size)
    jobs = {
        "forward": lambda: kernels.convolution_2d(x, W, pad=1),
        "transposed": lambda: kernels.transposed_convolution_2d(g, W, pad=1),
        "transposed from pooled": lambda: kernels.unpooled_transposed_convolution_2d(pooled, switches, W, insize, 2, pad=1),
    }
    left, right = cupy.ones((filters, 9 * channels), dtype), cupy.ones((9 * channels, batch * size * size), dtype)
    product = dict.fromkeys(jobs, lambda: left @ right)
    peers = torch_peers(torch, x, W, pooled, insize, arithmetic) if torch else product
    name = "torch, cuDNN" if torch else "cuBLAS product"
    return [(job, ours, name, theirs) for job, call in jobs.items() for ours, theirs in [alternate(call, peers[job])]]


def torch_peers(
    torch: Any, x: Any, W: Any, pooled: Any, insize: tuple[int, int], arithmetic: str
) -> dict[str, Callable[[], Any]]:
    """The same jobs through torch; from a pooled signal it must unpool first."""
    torch.backends.cudnn.allow_tf32 = arithmetic == "tf32"
    torch.backends.cudnn.benchmark = True
    F = torch.nn.functional
    picture, weights, signal = (torch.from_dlpack(array) for array in (x, W, pooled))
    full = F.interpolate(signal, insize)
    _, places = F.max_pool2d(full, 2, return_indices=True)
    stream = torch.cuda.ExternalStream(cupy.cuda.get_current_stream().ptr)

    def on_our_stream(call: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            with torch.cuda.stream(stream), torch.no_grad():
                return call()

        return run

    return {
        "forward": on_our_stream(lambda: F.conv2d(picture, weights, padding=1)),
        "transposed": on_our_stream(lambda: F.conv_transpose2d(full, weights, padding=1)),
        "transposed from pooled": on_our_stream(
            lambda: F.conv_transpose2d(F.max_unpool2d(signal, places, 2), weights, padding=1)
        ),
    }


def versions() -> dict[str, str]:
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    values = (
        properties["name"].decode(),
        cupy.__version__,
        np.__version__,
        platform.python_version(),
        str(cupy.cuda.runtime.runtimeGetVersion()),
        str(cupy.cuda.runtime.driverGetVersion()),
    )
    return dict(zip(VERSIONS, values, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the CSV")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--small", action="store_true", help="only the primitives' checks, on small shapes, for a sanitizer")
    options = parser.parse_args()
    results = Results()
    if options.small:
        check_primitives(results, small=True)
        sys.exit(bool(results.failures))
    jobs: tuple[Callable[[], None], ...] = (
        lambda: check_primitives(results, small=False),
        lambda: check_front_end(results),
        lambda: check_accelerated_chainer(results),
        lambda: measure_convolutions(results, options.batch),
        lambda: measure_memory_bound(results, options.batch),
        lambda: check_sanitizers(results),
    )
    for job in jobs:
        try:
            job()
        except Exception as error:  # One broken part must not cost the results of the others.
            results.add("error", configuration=f"{type(error).__name__}: {error}", passed=False)
    facts = versions()
    path = options.output / f"{facts['device'].replace(' ', '-').lower()}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, (*FIELDS, *VERSIONS), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **facts} for row in results.rows)
    print(f"wrote {path}: {len(results.rows)} rows, {len(results.failures)} failures")
    for row in results.failures:
        print("FAILED", row)
    sys.exit(bool(results.failures))


if __name__ == "__main__":
    main()
