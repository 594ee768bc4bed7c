"""The GPU suite's rates: primitives against a copy, convolutions against other libraries, Chainer's functions against ours."""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import cupy
import numpy as np

import dcnn_kernels as kernels
from benchmarks import elementwise, gpu_bounds
from benchmarks.convolution import LAYERS
from benchmarks.gpu_checks import error_norm, to_gpu, to_host
from benchmarks.gpu_results import Results, optional, seconds_left, torch_on_device
from dcnn_kernels.cuda.settings import engine, precision

#: Channels in, channels out and side of VGG16's different convolutions, all 3x3 with a pad of 1.
VGG16 = {name: layer[:3] for name, layer in LAYERS.items() if name.startswith("conv")}
#: Pictures that Chainer's functions are tried on.
PICTURES = (16, 64, 56, 56)
#: Rows and columns of the picture that is occluded.
SIDE = 224
#: Shares of the peer's rate that an H100 is to reach, and of the bound, by the whole walk through VGG16 with a batch of pictures.
AIMS = {"memory": 0.85, "transposed": 0.5, "transposed from pooled": 1.0}
WALK_AIM = 0.5

#: Median, 20th and 80th percentile, in seconds.
Times = tuple[float, float, float]

DELAY = r"""
extern "C" __global__ void delay(volatile int* place, int steps) {
    for (int i = 0; i < steps; ++i) *place = *place + 1;
}
"""


class Delay:
    """Keeps the device busy while the host launches what is to be timed, so that gaps between launches aren't timed too."""

    def __init__(self, steps: int = 10_000) -> None:
        self.kernel, self.place = cupy.RawKernel(DELAY, "delay"), cupy.zeros(1, np.int32)
        self.per_second = 1.0
        for _ in range(2):
            self.per_second = steps / max(gpu_seconds(lambda: self.launch(steps)), 1e-9)

    def launch(self, steps: int) -> None:
        """Adds 1 so many times."""
        self.kernel((1,), (1,), (self.place, np.int32(steps)))

    def wait(self, seconds: float) -> None:
        """Holds back what is launched next."""
        self.launch(int(min(seconds, 0.05) * self.per_second))


@functools.cache
def delaying() -> Delay:
    """The one of this process."""
    return Delay()


def gpu_seconds(call: Callable[[], Any], repeats: int = 1) -> float:
    """Seconds of a call on the device."""
    before, after = cupy.cuda.Event(), cupy.cuda.Event()
    before.record()
    for _ in range(repeats):
        call()
    after.record()
    after.synchronize()
    return cupy.cuda.get_elapsed_time(before, after) / 1e3 / repeats


def alternate(*calls: Callable[[], Any], seconds: float = 0.1) -> list[Times]:
    """Seconds of several calls on the device, in turn; short ones several at a time."""
    delay = delaying()
    plans = []
    for call in calls:
        for _ in range(3):
            call()
        cupy.cuda.Device().synchronize()
        start = time.perf_counter()
        call()
        launching = time.perf_counter() - start
        repeats = math.ceil(min(10.0, 2e-4 / max(gpu_seconds(call), 1e-6)))
        plans.append((repeats, 2 * launching * repeats + 1e-4))

    def taken(number: int) -> float:
        repeats, ahead = plans[number]
        delay.wait(ahead)
        return gpu_seconds(calls[number], repeats)

    return in_turn(taken, len(calls), seconds)


def in_turn(taken: Callable[[int], float], count: int, seconds: float) -> list[Times]:
    """Measures one after the other, again and again; ``taken(number)`` does one of them and gives the seconds it took."""
    times: list[list[float]] = [[] for _ in range(count)]
    start = time.perf_counter()
    while time.perf_counter() - start < seconds * count or len(times[0]) < 5:
        for number in range(count):
            times[number].append(taken(number))
    return [tuple(map(float, np.percentile(each, (50, 20, 80)))) for each in times]  # type: ignore[misc]


def add_rate(
    results: Results,
    job: str,
    configuration: str,
    shape: tuple[int, ...],
    dtype: str,
    measure: str,
    amount: float,
    ours: Times,
    peer: str = "",
    theirs: Times | None = None,
    least: float | None = None,
) -> None:
    """Keeps ``amount`` a second of ours, of a peer, and what it would be in the ``least`` seconds that the device allows."""
    median, low, high = ours
    row = {"configuration": configuration, "shape": "x".join(map(str, shape)), "dtype": dtype, "measure": measure}
    row |= {"value": amount / median, "low": amount / high, "high": amount / low, "peer": peer}
    row |= {"bound": amount / least} if least else {}
    results.add(job, **row, **({"peer_value": amount / theirs[0], "ratio": theirs[0] / median} if theirs else {}))


def random_array(shape: tuple[int, ...], dtype: str) -> Any:
    """Random numbers on the device, the same again after 65,536 of them."""
    size = math.prod(shape)
    numbers = cupy.asarray(np.random.default_rng(0).standard_normal(1 << 16).astype(dtype))
    return cupy.tile(numbers, size // numbers.size + 1)[:size].reshape(shape)


def fused_cases(batch: int) -> Iterator[elementwise.Case]:
    """Pooling with the mask of a rectifier on either side of it, and the way back through both, at VGG16's shapes."""
    for stage in elementwise.STAGES:
        x = random_array((batch, *stage), "float32")
        mask = kernels.relu_mask(x)
        y, switches = kernels.max_pooling_2d(x, 2)
        yield elementwise.Case("max_pooling_2d", "ksize=2 mask", (x,), {"ksize": 2, "mask": True})
        given = {"outsize": stage[1:], "ksize": 2, "switches": switches, "mask": mask}
        yield elementwise.Case("unpooling_2d", "switch ksize=2 mask", (y,), given)
        yield elementwise.Case("unpooling_2d", "switch ksize=2 mask rectify", (y,), {**given, "rectify": True})


def measure_memory_bound(results: Results, batch: int) -> None:
    """Bytes of inputs and outputs a second, each counted once, beside those of a copy of as many."""
    bound = (case for case in elementwise.cases(batch, "float32") if not case.primitive.startswith("linear"))
    for case in itertools.chain(fused_cases(batch), (case.on(to_gpu) for case in bound)):
        if seconds_left() < 75:
            results.add("memory", configuration="no time for the rest")
            return
        with results.going_on("memory", case.primitive):
            measure_case(results, case)


def measure_case(results: Results, case: elementwise.Case) -> None:
    """One primitive."""
    output = case.call()
    arrays = (*case.reads, *case.settings.values(), *(output if isinstance(output, tuple) else (output,)))
    moved = sum(getattr(array, "nbytes", 0) for array in arrays)
    source, target = cupy.ones((2, max(1, moved // 16)))
    ours, copy = alternate(case.call, lambda s=source, t=target: cupy.copyto(t, s), seconds=0.05)
    name = f"{case.primitive} {case.configuration}".strip()
    add_rate(results, "memory", name, case.reads[0].shape, "float32", "GB/s", moved / 1e9, ours, "copy", copy)


def measure_convolutions(results: Results, batch: int) -> None:
    """TFLOP/s of VGG16's convolutions, forward, transposed and transposed from a pooled signal, beside each peer's."""
    torch = torch_on_device(results, "convolution")
    by_cudnn = optional("cudnn") is not None
    ((copying, *_),) = alternate(gpu_bounds.copy())
    if not by_cudnn:
        results.add("convolution", configuration="nvidia-cudnn-frontend is not installed: cuDNN is there through torch only")
    for layer, (channels, filters, size) in VGG16.items():
        for arithmetic in ("exact", "tf32", "float16"):
            if seconds_left() < 110:
                results.add("convolution", configuration=f"no time for {layer} {arithmetic}")
                continue
            flop = 2 * 9 * batch * channels * filters * size * size
            bytes_per_second = 2 * gpu_bounds.COPIED / copying
            with precision("tf32" if arithmetic == "tf32" else "exact"):
                for job, calls in layer_calls(torch, by_cudnn, batch, channels, filters, size, arithmetic).items():
                    with results.going_on("convolution", f"{layer} {job} {arithmetic}"):
                        peers = [peer for peer in list(calls)[1:] if runs(results, f"{layer} {job} by {peer}", calls[peer])]
                        ours, *others = alternate(calls["ours"], *map(calls.__getitem__, peers))
                        moved = bytes_moved(job, batch, channels, filters, size, 2 if arithmetic == "float16" else 4)
                        least = gpu_bounds.least_seconds(flop, arithmetic, moved, bytes_per_second)
                        row = (f"{layer} {job}", (batch, channels, size, size), arithmetic, "TFLOP/s", flop / 1e12)
                        for peer, theirs in zip(peers, others, strict=True) if peers else [("", None)]:
                            add_rate(results, "convolution", *row, ours, peer, theirs, least)


def runs(results: Results, what: str, call: Callable[[], Any]) -> bool:
    """Whether a peer can do it; if not, that is said."""
    try:
        call()
    except Exception as error:
        results.add("convolution", configuration=f"{what} is left out: {error}")
        return False
    return True


def bytes_moved(job: str, batch: int, channels: int, filters: int, size: int, itemsize: int) -> int:
    """Bytes of a layer's arrays, each counted once; a pooled signal has a quarter of the pixels, and a switch for each."""
    pixels = batch * size * size
    signal = pixels * filters // 4 * (itemsize + 1) if job == "transposed from pooled" else pixels * filters * itemsize
    return signal + (pixels * channels + 9 * channels * filters) * itemsize


def measure_rectified(results: Results, batch: int) -> None:
    """TFLOP/s of VGG16's convolutions with the ReLU on the way, in TF32, beside those with the ReLU as a kernel of its own."""
    for layer, (channels, filters, size) in VGG16.items():
        if seconds_left() < 95:
            results.add("rectified", configuration=f"no time for {layer}")
            return
        shapes = (batch, channels, size, size), (filters, channels, 3, 3), (batch, filters, size, size)
        x, W, g = (random_array(shape, "float32") for shape in shapes)
        mask = kernels.relu_mask(x)
        pooled, switches = kernels.max_pooling_2d(g, 2)
        unpool = functools.partial(kernels.unpooled_transposed_convolution_2d, pooled, switches, W, (size, size), 2, pad=1)
        forward = functools.partial(kernels.convolution_2d, x, W, pad=1)
        transposed = functools.partial(kernels.transposed_convolution_2d, g, W, pad=1)
        jobs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "forward": (lambda call=forward: call(z=math.inf), lambda call=forward: kernels.relu(call())),
            "transposed": rectified_calls(transposed, mask),
            "transposed from pooled": rectified_calls(unpool, mask),
        }
        with precision("tf32"), engine("own"):
            for job, calls in jobs.items():
                with results.going_on("rectified", f"{layer} {job}"):
                    fused, apart = alternate(*calls, seconds=0.05)
                    flop = 2 * 9 * batch * channels * filters * size * size
                    given = (results, "rectified", f"{layer} {job}", shapes[0], "tf32", "TFLOP/s", flop / 1e12)
                    add_rate(*given, fused, "a kernel of its own", apart)


def rectified_calls(call: Callable[..., Any], mask: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A way back with the ReLU on the way, and with the ReLU afterwards."""
    return lambda: call(mask=mask, rectify=True), lambda: kernels.relu_reverse(call(), mask, True)


def layer_calls(
    torch: Any, by_cudnn: bool, batch: int, channels: int, filters: int, size: int, arithmetic: str
) -> dict[str, dict[str, Callable[[], Any]]]:
    """Calls of one layer, 3x3 with pad 1, by job and by who does it; ours come first."""
    dtype = "float16" if arithmetic == "float16" else "float32"
    shapes = (batch, channels, size, size), (filters, channels, 3, 3), (batch, filters, size, size)
    x, W, g = (random_array(shape, dtype) for shape in shapes)
    pooled, switches = kernels.max_pooling_2d(g, 2)
    insize = (size, size)
    jobs = {
        "forward": lambda: kernels.convolution_2d(x, W, pad=1),
        "transposed": lambda: kernels.transposed_convolution_2d(g, W, pad=1),
        "transposed from pooled": lambda: kernels.unpooled_transposed_convolution_2d(pooled, switches, W, insize, 2, pad=1),
    }

    def by(whose: str, call: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            with engine(whose):
                return call()

        return run

    calls = {job: {"ours": by("own", call)} for job, call in jobs.items()}
    product = matrix_product(torch, (filters, 9 * channels, batch * size * size), dtype, arithmetic)
    for job, call in jobs.items():
        if by_cudnn:
            calls[job]["cuDNN"] = by("cudnn", call)
        if torch:
            calls[job]["torch, by cuDNN"] = torch_call(torch, job, x, W, g, pooled, arithmetic)
        if product:
            calls[job]["cuBLAS product"] = product
    return calls


def torch_call(torch: Any, job: str, x: Any, W: Any, g: Any, pooled: Any, arithmetic: str) -> Callable[[], Any]:
    """The same job by torch, on CUDA's default stream as CuPy; from a pooled signal it must unpool first."""
    torch.backends.cudnn.allow_tf32 = arithmetic == "tf32"
    torch.backends.cudnn.benchmark = True
    F = torch.nn.functional
    picture, weights, signal, small = (torch.from_dlpack(array) for array in (x, W, g, pooled))
    if job == "forward":
        return lambda: F.conv2d(picture, weights, padding=1)
    if job == "transposed":
        return lambda: F.conv_transpose2d(signal, weights, padding=1)
    _, places = F.max_pool2d(signal, 2, return_indices=True)
    return lambda: F.conv_transpose2d(F.max_unpool2d(small, places, 2), weights, padding=1)


def matrix_product(torch: Any, sizes: tuple[int, int, int], dtype: str, arithmetic: str) -> Callable[[], Any] | None:
    """The product by cuBLAS in the same arithmetic; CuPy alone has none in TF32."""
    rows, depth, columns = sizes
    left, right = random_array((rows, depth), dtype), random_array((depth, columns), dtype)
    if not torch:
        return None if arithmetic == "tf32" else lambda: left @ right
    torch.backends.cuda.matmul.allow_tf32 = arithmetic == "tf32"
    one, other = torch.from_dlpack(left), torch.from_dlpack(right)
    return lambda: one @ other


def report_aims(rows: list[dict[str, Any]]) -> None:
    """Says which rates fall short of the aims."""
    for row in rows:
        job = row["configuration"].partition(" ")[2] if row["job"] == "convolution" else row["job"]
        aim = AIMS.get(job, 0.0)
        if row["job"] == "convolution" and not (row.get("dtype") == "tf32" and "cuDNN" in row.get("peer", "")):
            continue
        if row.get("ratio", aim) < aim:
            named = f"{row['configuration']} {row['shape']} {row['dtype']}"
            print(f"AIM {aim} MISSED: {row['job']} {named}: {row['ratio']:.2f} of {row['peer']}")
        if (
            row["job"] == "walk"
            and row.keys() >= {"bound", "shape"}
            and not row["shape"].startswith("1x")
            and row["value"] < WALK_AIM * row["bound"]
        ):
            print(f"AIM {WALK_AIM} MISSED: {row['configuration']} {row['shape']}: {row['value'] / row['bound']:.2f} of the bound")


def measure_chainer(results: Results) -> None:
    """Chainer's own functions on CuPy and their gradients: that they run, and what ours in their place change."""
    if optional("dcnn_visualizer.chainer_compat") is None:
        results.add("accelerate", configuration="Chainer is not installed: left out")
        return
    import chainer
    import chainer.functions as F

    import dcnn_visualizer

    random = np.random.default_rng()
    W = cupy.asarray(random.standard_normal((PICTURES[1], PICTURES[1], 3, 3)).astype(np.float32))
    calls = {
        "F.convolution_2d": lambda x: F.convolution_2d(x, W, pad=1),
        "F.deconvolution_2d": lambda x: F.deconvolution_2d(x, W, pad=1),
        "F.max_pooling_2d": lambda x: F.max_pooling_2d(F.relu(x), 3, 2),
        "F.local_response_normalization": F.local_response_normalization,
    }
    data = cupy.asarray(random.standard_normal(PICTURES).astype(np.float32))
    for name, call in calls.items():

        def plain(call: Callable[[Any], Any] = call) -> tuple[Any, Any]:
            x = chainer.Variable(data)
            y = call(x)
            y.grad = y.array
            y.backward()
            return y.array, x.grad

        def accelerated(plain: Callable[[], Any] = plain) -> tuple[Any, Any]:
            with dcnn_visualizer.accelerate():
                return plain()

        try:
            expected = to_host(plain())
        except Exception as error:
            results.add("accelerate", configuration=f"{name}: Chainer's own fails with this CuPy: {error}")
            continue
        with results.going_on("accelerate", name):
            error = error_norm(to_host(accelerated()), expected)
            results.add("accelerate", configuration=name, measure="relative error norm", value=error, passed=error < 1e-4)
            ours, theirs = alternate(accelerated, plain)
            add_rate(results, "accelerate", f"{name} and gradient", data.shape, "float32", "calls/s", 1, ours, "Chainer", theirs)


def measure_occlusion(results: Results) -> None:
    """Class scores of VGG16 by incremental occlusion, beside Captum's ``Occlusion`` with cuDNN; both multiply in TF32."""
    torch = torch_on_device(results, "occlusion")
    if not torch or optional("captum.attr") is None or optional("dcnn_visualizer.chainer_compat") is None:
        results.add("occlusion", configuration="torch, Captum or Chainer is not installed: left out")
        return
    from captum.attr import Occlusion

    from benchmarks.networks import vgg16
    from dcnn_visualizer.importers.torch import from_torch
    from dcnn_visualizer.occlusion import SaliencyVisualizer

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    network, picture = vgg16().cuda(), torch.randn(1, 3, SIDE, SIDE, device="cuda")
    chain, given = from_torch(network, picture), cupy.from_dlpack(picture)[0]
    visualizer, last, target = SaliencyVisualizer(chain), chain.layer_names[-1], 7
    with precision("tf32"), torch.inference_mode():
        for ksize, stride in ((32, 8), (16, 4)):
            if seconds_left() < 15:
                results.add("occlusion", configuration=f"VGG16 {ksize}/{stride}: no time is left")
                return
            window, beside = (3, ksize, ksize), (3, ksize, ksize)

            def ours(ksize: int = ksize, stride: int = stride) -> Any:
                return visualizer.analyze(given, last, ksize, stride, fill=0.0, windows="inside").data[..., target]

            def captums(window: Any = window, beside: Any = beside) -> Any:
                # For Captum each place costs a run of the network, so the fewest places tell.
                return Occlusion(network).attribute(picture, window, beside, target=target, perturbations_per_eval=32)

            found, every = ours(), ksize // stride
            theirs = captums()[0, 0, ::ksize, ::ksize].cpu().numpy()
            size = max(theirs.shape)
            error = error_norm(-cupy.asnumpy(found)[::every, ::every][:size, :size], theirs)
            one, other = alternate(ours, captums)
            shape, (median, low, high) = f"VGG16 {ksize}/{stride}", (seconds * found.size / theirs.size for seconds in other)
            places = (results, "occlusion", shape, given.shape, "tf32", "places/s", found.size)
            add_rate(*places, one, "Captum, by cuDNN", (median, low, high))
            results.add("occlusion", configuration=shape, measure="relative error norm", value=error, passed=error < 1e-2)
