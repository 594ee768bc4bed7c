"""CUDA's runtime and driver, as much of them as CuPy calls: memory of the host, streams whose work is done at once, captures.

Captures refuse what CUDA's refuse: waiting for a stream that is capturing; work on the legacy default stream while one captures
that isn't non-blocking; and, in other modes than the relaxed one, calls that take or give back memory or load kernels.
"""

import ctypes
import importlib
import itertools
import threading
import time
from ctypes import c_char_p, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p

from tests.host.real_cupy.calls import Table, write

DEVICES = 2
MEMORY = 8 << 30
#: Addresses are multiples of this; so many bytes beyond the end of memory are nobody's.
ALIGNMENT = 512
#: cudaDeviceAttr of an H100; others are 0.
ATTRIBUTES = {1: 1024, 8: 49152, 10: 32, 13: 1980000, 16: 132, 36: 2619000, 38: 50 << 20, 75: 9, 76: 0, 97: 232448}
#: cudaError.
INVALID_VALUE, OUT_OF_MEMORY, INVALID_DEVICE, INVALID_HANDLE, ILLEGAL_STATE, LAUNCH_FAILURE = 1, 2, 101, 400, 401, 719
CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED, CAPTURE_IMPLICIT, UNKNOWN = 900, 901, 906, 999
GLOBAL, THREAD_LOCAL = 0, 1
NON_BLOCKING = 1
#: Of streams: the legacy default one by either of its names, and that of the thread.
LEGACY, PER_THREAD = (0, 1), 2

DRIVER = """
cuGetErrorName cuGetErrorString cuDevicePrimaryCtxRelease_v2 cuCtxGetCurrent cuCtxSetCurrent cuCtxCreate_v2 cuCtxDestroy_v2
cuCtxGetDevice cuLinkCreate_v2 cuLinkAddData_v2 cuLinkAddFile_v2 cuLinkComplete cuLinkDestroy cuModuleLoad cuModuleLoadData
cuModuleUnload cuModuleGetFunction cuModuleGetGlobal_v2 cuLaunchKernel cuLaunchCooperativeKernel cuFuncGetAttribute
cuFuncSetAttribute cuOccupancyMaxActiveBlocksPerMultiprocessor cuOccupancyMaxPotentialBlockSize cuStreamGetCtx
""".split()  # noqa: SIM905

_table = Table(UNKNOWN)
_libc = ctypes.CDLL(None)
_libc.posix_memalign.argtypes = [ctypes.POINTER(c_void_p), c_size_t, c_size_t]
_libc.free.argtypes = [c_void_p]
_handles = itertools.count(0x1000)
_blocks: dict = {}  # (size, device), by address
_streams: dict = {}
_graphs: dict = {}  # what to do, by graph
_events: dict = {}  # when
_modules: dict = {}  # (source, device)
_functions: dict = {}  # (name, source, device)


class _Thread(threading.local):
    device = 0
    source = None  # of the module that is loaded next


thread = _Thread()
#: ``run(name, source, grid, block, shared, parameters)`` reads the parameters, and returns what runs the kernel with them.
prepare = None


class _Stream:
    def __init__(self, flags):
        self.flags, self.capture = flags, None


class _Capture:
    def __init__(self, mode):
        self.mode, self.thread, self.valid, self.work = mode, threading.get_ident(), True, []


def install():
    """In the place of the driver that CuPy would load, and of the runtime that is part of it."""
    _table.load("libcuda.so.1", DRIVER)
    _table.replace(importlib.import_module("cupy_backends.cuda.api.runtime").__file__, r"cuda(?!RuntimeGetVersion)[A-Z]\w*")


def is_capturing(stream):
    """Whether what is done on a stream is only noted."""
    return stream in _streams and _streams[stream].capture is not None


def _captures():
    return [stream.capture for stream in _streams.values() if stream.capture]


def _unsafe():
    """Calls that only the relaxed mode allows."""
    for capture in _captures():
        if capture.mode == GLOBAL or (capture.mode == THREAD_LOCAL and capture.thread == threading.get_ident()):
            capture.valid = False
            return CAPTURE_UNSUPPORTED
    return 0


def _waits(captures):
    """Calls that would wait for what is captured."""
    for capture in captures:
        capture.valid = False
    return CAPTURE_UNSUPPORTED if captures else 0


def _implicit(stream):
    """Of work on the legacy default stream, which waits for all streams but those that are non-blocking."""
    waiting = [other.capture for other in _streams.values() if other.capture and not other.flags & NON_BLOCKING]
    if stream not in LEGACY or not waiting:
        return 0
    waiting[0].valid = False
    return CAPTURE_IMPLICIT


def _do(stream, work):
    """Work on a stream: ``work()`` returns a status, or None."""
    stream = stream or 0
    if stream not in _streams and stream not in (*LEGACY, PER_THREAD):
        return INVALID_HANDLE
    if status := _implicit(stream):
        return status
    if is_capturing(stream):
        _streams[stream].capture.work.append(work)
        return 0
    return work()


def _text(prefix):
    texts = {}

    def text(code):
        return ctypes.cast(texts.setdefault(code, ctypes.create_string_buffer(f"{prefix}{code}".encode())), c_void_p).value

    return text


_names = _text("cudaError ")
for _name in ("cudaGetErrorName", "cudaGetErrorString"):
    _table.put(_name, ctypes.CFUNCTYPE(c_void_p, c_int)(_names))
for _name in ("cuGetErrorName", "cuGetErrorString"):
    _table.put(_name, ctypes.CFUNCTYPE(c_int, c_int, c_void_p)(lambda code, to: write(to, c_void_p, _names(code)) or 0))


# Devices.
@_table.call(c_void_p)
def cudaGetDevice(device):
    write(device, c_int, thread.device)


@_table.call(c_int)
def cudaSetDevice(device):
    if not 0 <= device < DEVICES:
        return INVALID_DEVICE
    thread.device = device


@_table.call(c_void_p)
def cudaGetDeviceCount(count):
    write(count, c_int, DEVICES)


@_table.call(c_void_p, c_int, c_int)
def cudaDeviceGetAttribute(value, attribute, device):
    write(value, c_int, ATTRIBUTES.get(attribute, 0))


@_table.call(c_void_p, c_int)
def cudaGetDeviceProperties(properties, device):
    ctypes.memset(properties, 0, 512)
    ctypes.memmove(properties, b"No device\0", 10)


@_table.call()
def cudaDeviceSynchronize():
    return _waits(_captures())


@_table.call(c_void_p)
def cudaDriverGetVersion(version):
    write(version, c_int, 13000)


@_table.call()
def cudaGetLastError():
    pass


@_table.call(c_void_p, c_int, c_int)
def cudaDeviceCanAccessPeer(can, device, peer):
    write(can, c_int, 1)


@_table.call(c_int, c_uint)
def cudaDeviceEnablePeerAccess(peer, flags):
    pass


# Memory.
def _taken():
    return sum(size for size, _ in _blocks.values())


@_table.call(c_void_p, c_size_t)
def cudaMalloc(to, size):
    if status := _unsafe():
        return status
    if _taken() + size > MEMORY:
        return OUT_OF_MEMORY
    block = c_void_p()
    _libc.posix_memalign(ctypes.byref(block), ALIGNMENT, size + ALIGNMENT)
    ctypes.memset(block.value, 0xFF, size)
    _blocks[block.value] = size, thread.device
    write(to, c_void_p, block.value)


@_table.call(c_void_p)
def cudaFree(block):
    if not block:
        return 0
    if block not in _blocks:
        return INVALID_VALUE
    if status := _unsafe():
        return status
    del _blocks[block]
    _libc.free(block)


@_table.call(c_void_p, c_size_t, c_uint)
def cudaHostAlloc(to, size, flags):
    block = c_void_p()
    _libc.posix_memalign(ctypes.byref(block), ALIGNMENT, size)
    write(to, c_void_p, block.value)


@_table.call(c_void_p)
def cudaFreeHost(block):
    _libc.free(block)


@_table.call(c_void_p, c_void_p)
def cudaMemGetInfo(free, total):
    write(free, c_size_t, MEMORY - _taken())
    write(total, c_size_t, MEMORY)


@_table.call(c_void_p, c_void_p, c_size_t, c_int)
def cudaMemcpy(to, source, size, kind):
    if status := _unsafe() or _implicit(0):
        return status
    ctypes.memmove(to, source, size)


@_table.call(c_void_p, c_void_p, c_size_t, c_int, c_void_p)
def cudaMemcpyAsync(to, source, size, kind, stream):
    return _do(stream, lambda: ctypes.memmove(to, source, size) and 0)


@_table.call(c_void_p, c_int, c_void_p, c_int, c_size_t, c_void_p)
def cudaMemcpyPeerAsync(to, to_device, source, device, size, stream):
    return _do(stream, lambda: ctypes.memmove(to, source, size) and 0)


@_table.call(c_void_p, c_int, c_size_t, c_void_p)
def cudaMemsetAsync(to, value, size, stream):
    return _do(stream, lambda: ctypes.memset(to, value, size) and 0)


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("type", c_int),
        ("device", c_int),
        ("on_device", c_void_p),
        ("on_host", c_void_p),
        ("reserved", ctypes.c_long * 8),
    )


@_table.call(ctypes.POINTER(_Attributes), c_void_p)
def cudaPointerGetAttributes(attributes, pointer):
    owner = next((device for block, (size, device) in _blocks.items() if block <= (pointer or 0) < block + max(size, 1)), None)
    if owner is None:
        attributes[0] = _Attributes(0, -2, None, pointer)
    else:
        attributes[0] = _Attributes(2, owner, pointer, None)


# Streams, events and graphs.
@_table.call(c_void_p, c_uint)
def cudaStreamCreateWithFlags(to, flags):
    handle = next(_handles)
    _streams[handle] = _Stream(flags)
    write(to, c_void_p, handle)


@_table.call(c_void_p, c_uint, c_int)
def cudaStreamCreateWithPriority(to, flags, priority):
    return cudaStreamCreateWithFlags(to, flags)


@_table.call(c_void_p)
def cudaStreamDestroy(stream):
    del _streams[stream]


@_table.call(c_void_p)
def cudaStreamSynchronize(stream):
    return _implicit(stream or 0) or _waits([_streams[stream].capture] if is_capturing(stream) else [])


@_table.call(c_void_p, c_void_p, c_uint)
def cudaStreamWaitEvent(stream, event, flags):
    pass


@_table.call(c_void_p, c_void_p)
def cudaStreamGetFlags(stream, flags):
    write(flags, c_uint, _streams[stream].flags if stream in _streams else 0)


@_table.call(c_void_p, c_int)
def cudaStreamBeginCapture(stream, mode):
    if stream not in _streams:
        return CAPTURE_UNSUPPORTED
    if is_capturing(stream):
        return ILLEGAL_STATE
    _streams[stream].capture = _Capture(mode)


@_table.call(c_void_p, c_void_p)
def cudaStreamEndCapture(stream, graph):
    if not is_capturing(stream):
        return ILLEGAL_STATE
    capture, _streams[stream].capture = _streams[stream].capture, None
    if not capture.valid:
        return CAPTURE_INVALIDATED
    handle = next(_handles)
    _graphs[handle] = capture.work
    write(graph, c_void_p, handle)


@_table.call(c_void_p, c_void_p)
def cudaStreamIsCapturing(stream, status):
    if error := _implicit(stream or 0):
        return error
    write(status, c_int, 2 - _streams[stream].capture.valid if is_capturing(stream) else 0)


@_table.call(c_void_p, c_void_p, c_ulonglong)
def cudaGraphInstantiate(executable, graph, flags):
    handle = next(_handles)
    _graphs[handle] = _graphs[graph]
    write(executable, c_void_p, handle)


@_table.call(c_void_p, c_void_p)
def cudaGraphLaunch(executable, stream):
    for work in _graphs[executable]:
        if status := _do(stream, work):
            return status


@_table.call(c_void_p)
def cudaGraphDestroy(graph):
    del _graphs[graph]


@_table.call(c_void_p)
def cudaGraphExecDestroy(executable):
    del _graphs[executable]


@_table.call(c_void_p, c_uint)
def cudaEventCreateWithFlags(to, flags):
    handle = next(_handles)
    _events[handle] = None
    write(to, c_void_p, handle)


@_table.call(c_void_p)
def cudaEventCreate(to):
    return cudaEventCreateWithFlags(to, 0)


@_table.call(c_void_p)
def cudaEventDestroy(event):
    del _events[event]


@_table.call(c_void_p, c_void_p)
def cudaEventRecord(event, stream):
    _events[event] = time.perf_counter()


@_table.call(c_void_p)
def cudaEventSynchronize(event):
    pass


@_table.call(c_void_p)
def cudaEventQuery(event):
    pass


@_table.call(c_void_p, c_void_p, c_void_p)
def cudaEventElapsedTime(milliseconds, start, end):
    if _events[start] is None or _events[end] is None:
        return INVALID_HANDLE
    write(milliseconds, c_float, (_events[end] - _events[start]) * 1e3)


# Modules and launches.
@_table.call(c_void_p)
def cuCtxGetCurrent(context):
    write(context, c_void_p, 1 + thread.device)


@_table.call(c_void_p, c_void_p)
def cuModuleLoadData(module, image):
    if status := _unsafe():
        return status
    handle = next(_handles)
    _modules[handle] = thread.source, thread.device
    write(module, c_void_p, handle)


@_table.call(c_void_p)
def cuModuleUnload(module):
    del _modules[module]


@_table.call(c_void_p, c_void_p, c_char_p)
def cuModuleGetFunction(function, module, name):
    handle = next(_handles)
    _functions[handle] = name.decode(), *_modules[module]
    write(function, c_void_p, handle)


@_table.call(c_void_p, c_int, c_void_p)
def cuFuncGetAttribute(value, attribute, function):
    write(value, c_int, 0)


@_table.call(c_void_p, c_int, c_int)
def cuFuncSetAttribute(function, attribute, value):
    pass


@_table.call(c_void_p, *[c_uint] * 7, c_void_p, ctypes.POINTER(c_void_p), c_void_p)
def cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):
    name, source, device = _functions[function]
    if device != thread.device:
        return INVALID_HANDLE
    sizes = ((gx, 2**31 - 1), (gy, 65535), (gz, 65535), (bx, 1024), (by, 1024), (bz, 64), (bx * by * bz, 1024), (shared, 49152))
    if not (all(size <= limit for size, limit in sizes) and gx * gy * gz * bx * by * bz):
        return INVALID_VALUE
    run = prepare(name, source, (gx, gy, gz), (bx, by, bz), shared, parameters)
    return _do(stream, lambda: 0 if run() else LAUNCH_FAILURE)
