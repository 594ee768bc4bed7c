"""Devices, streams and memory. Every device array is a block of its own from malloc, of its very size, so that
AddressSanitizer sees the first byte beyond it; memory that nobody wrote is 0xff, NaN in every float type.
"""

import contextlib
import ctypes
import itertools
import os
import threading
import time
import weakref
from types import SimpleNamespace

from cupy import capture
from cupy.capture import Graph  # noqa: F401

_libc = ctypes.CDLL(None)
_libc.free.argtypes = [ctypes.c_void_p]
_libc.posix_memalign.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_size_t]
#: Addresses that CuPy gives out are multiples of this.
ALIGNMENT = 512
#: Largest dynamic shared memory (bytes) of a block by compute capability, and what needs no asking for.
SHARED_BYTES = {"75": 65536, "80": 166912, "86": 101376, "89": 101376, "90": 232448, "100": 232448, "120": 101376}
PLAIN_SHARED_BYTES = 48 * 1024

DEVICES = 2
_current_device = 0


class OutOfMemoryError(MemoryError):
    """The memory pool's limit is reached."""


class CUDARuntimeError(RuntimeError):
    """CUDA refused a call."""


class CompileException(Exception):
    """The compiler refused a kernel."""


cublas = SimpleNamespace()
memory = SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
compiler = SimpleNamespace(CompileException=CompileException)


class Device:
    """A device; as a context manager, the current one. Its compute capability is ``DCNN_HOST_CAPABILITY``, or 9.0."""

    def __init__(self, device=None):
        self.id = _current_device if device is None else int(device)
        if not 0 <= self.id < DEVICES:
            raise CUDARuntimeError(f"cudaErrorInvalidDevice: device {self.id} of {DEVICES}")

    def __enter__(self):
        self._previous = _current_device
        self.use()
        return self

    def __exit__(self, *exception):
        Device(self._previous).use()

    def __int__(self):
        return self.id

    def __eq__(self, other):
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self):
        return self.id

    def __repr__(self):
        return f"<CUDA Device {self.id}>"

    def use(self):
        global _current_device
        _current_device = self.id

    def synchronize(self):
        """Nothing to wait for: every launch returns when it is done."""
        capture.refuse_synchronization()

    @property
    def compute_capability(self):
        return os.environ.get("DCNN_HOST_CAPABILITY", "90")

    @property
    def attributes(self):
        return {
            "MaxSharedMemoryPerBlock": PLAIN_SHARED_BYTES,
            "MaxSharedMemoryPerBlockOptin": SHARED_BYTES[self.compute_capability],
            "MaxThreadsPerBlock": 1024,
            "MultiProcessorCount": 2,
            "ClockRate": 1000000,  # kHz
            "WarpSize": 32,
        }

    @property
    def mem_info(self):
        return runtime.memGetInfo()


_local = threading.local()
_pointers = itertools.count(16)


class Stream:
    """A stream; work on it is done at once, unless it is capturing."""

    def __init__(self, null=False, non_blocking=False, ptds=False):
        self.ptr = 0 if null else 2 if ptds else next(_pointers)
        self.device_id = -1 if null or ptds else _current_device
        self.is_non_blocking = non_blocking

    @classmethod
    def from_external(cls, obj):
        """The stream of another library, which tells (version, pointer)."""
        stream = cls()
        version, stream.ptr = obj.__cuda_stream__()
        if version != 0 or not isinstance(stream.ptr, int):
            raise TypeError(f"__cuda_stream__() must return (0, int), got {(version, stream.ptr)}")
        return stream

    def __enter__(self):
        if self.device_id not in (-1, _current_device):
            raise RuntimeError(f"This stream was not created on device {_current_device}")
        _streams().append(self)
        return self

    def __exit__(self, *exception):
        _streams().pop()

    def __eq__(self, other):
        return isinstance(other, Stream) and self.ptr == other.ptr

    def __hash__(self):
        return self.ptr

    def synchronize(self):
        capture.refuse_synchronization(self)

    def begin_capture(self, mode=None):
        capture.begin(self, mode)

    def end_capture(self):
        return capture.end(self)

    def is_capturing(self):
        return capture.is_capturing(self)


def _streams():
    if not hasattr(_local, "streams"):
        _local.streams = []
    return _local.streams


class Event:
    """An event; it has happened when it is recorded."""

    def record(self, stream=None):
        self.time = time.perf_counter()

    def synchronize(self):
        pass


def get_elapsed_time(start_event, end_event):
    return (end_event.time - start_event.time) * 1e3


Stream.null = Stream(null=True)


def get_current_stream(device_id=-1):
    return _streams()[-1] if _streams() else Stream.null


def get_device_id():
    return _current_device


def is_available():
    return True


#: Sizes of all blocks of device memory by address, a pool's unused ones among them.
_blocks: dict[int, int] = {}


def is_allocated(start, stop):
    """Whether bytes belong to one block of device memory."""
    return any(pointer <= start and stop <= pointer + size for pointer, size in list(_blocks.items()))


def _take(size):
    capture.refuse_unsafe("cudaMalloc")
    pointer = ctypes.c_void_p()
    if _libc.posix_memalign(ctypes.byref(pointer), ALIGNMENT, size):
        raise OutOfMemoryError(f"Out of memory allocating {size} bytes")
    _blocks[pointer.value] = size
    return pointer.value


def _give_back(pointer):
    del _blocks[pointer]
    _libc.free(pointer)


class MemoryPool:
    """Counts what is allocated, and refuses what goes over its limit. Unused blocks stay, each for arrays of its very size on its
    device and stream.
    """

    def __init__(self, allocator=None):
        self._used = self._limit = self._total = 0
        self._unused = {}

    def malloc(self, size):
        return MemoryPointer(Memory(size, self))

    def take(self, size):
        """The address of a block."""
        unused = self._unused.get(self._bin(size))
        if unused:
            pointer = unused.pop()
        else:
            if self._limit and self._total + size > self._limit:
                self.free_all_blocks()
            if self._limit and self._total + size > self._limit:
                raise OutOfMemoryError(f"Out of memory allocating {size} bytes (allocated so far: {self._total} bytes)")
            pointer = _take(size)
            self._total += size
        self._used += size
        return pointer

    def give_back(self, pointer, bin):
        self._used -= bin[-1]
        self._unused.setdefault(bin, []).append(pointer)

    @staticmethod
    def _bin(size):
        return _current_device, get_current_stream().ptr, size

    def set_limit(self, size=None, fraction=None):
        self._limit = size or 0

    def get_limit(self):
        return self._limit

    def used_bytes(self):
        return self._used

    def total_bytes(self):
        return self._total

    def free_bytes(self):
        return self._total - self._used

    def free_all_blocks(self, stream=None):
        for bin, pointers in self._unused.items():
            self._total -= bin[-1] * len(pointers)
            for pointer in pointers:
                _give_back(pointer)
        self._unused.clear()

    def __del__(self):
        self.free_all_blocks()


class _DefaultPool(MemoryPool):
    """Gives memory back at once, so that AddressSanitizer sees who reads it then, but counts it as if it kept it."""

    def take(self, size):
        if self._limit and self._used + size > self._limit:
            raise OutOfMemoryError(f"Out of memory allocating {size} bytes (allocated so far: {self._used} bytes)")
        pointer = _take(size)
        self._used += size
        self._total = max(self._total, self._used)
        return pointer

    def give_back(self, pointer, bin):
        self._used -= bin[-1]
        _give_back(pointer)

    def free_all_blocks(self, stream=None):
        self._total = self._used


_pool = _DefaultPool()


def get_default_memory_pool():
    return _pool


def get_default_pinned_memory_pool():
    return None


class Memory:
    """A block of device memory, as NumPy's array interface shows it."""

    def __init__(self, size, pool):
        self.size, self.device_id, self.ptr = 0, _current_device, 0
        if size:
            self._pool, self._bin = weakref.ref(pool), pool._bin(size)
            self.ptr, self.size = pool.take(size), size
            ctypes.memset(self.ptr, 0xFF, size)

    def __del__(self):
        if self.ptr:
            pool = self._pool()
            if pool is None:
                _give_back(self.ptr)
            else:
                pool.give_back(self.ptr, self._bin)

    @property
    def __array_interface__(self):
        # NumPy takes no null pointer, even of nothing.
        return {"shape": (self.size,), "typestr": "|u1", "data": (self.ptr or ALIGNMENT, False), "version": 3}


class Borrowed:
    """Memory that another library owns."""

    def __init__(self, ptr, size, device_id):
        self.ptr, self.size, self.device_id = ptr, size, device_id
        self._own = ptr not in _blocks
        if self._own:
            _blocks[ptr] = size

    def __del__(self):
        if self._own:
            _blocks.pop(self.ptr, None)


class MemoryPointer:
    """A place in a block of device memory."""

    def __init__(self, mem, offset=0):
        self.mem, self.offset, self.ptr = mem, offset, mem.ptr + offset
        self.device_id, self.device = mem.device_id, Device(mem.device_id)

    def __add__(self, offset):
        return MemoryPointer(self.mem, self.offset + offset)


def alloc(size):
    allocator = getattr(_local, "allocator", None)
    return _pool.malloc(size) if allocator is None else allocator(size)


def set_allocator(allocator=None):
    """Every array has a block of its own already."""


@contextlib.contextmanager
def using_allocator(allocator=None):
    """The thread's allocator."""
    previous = getattr(_local, "allocator", None)
    _local.allocator = allocator
    try:
        yield
    finally:
        _local.allocator = previous


runtime = SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError,
    getDevice=get_device_id,
    getDeviceCount=lambda: DEVICES,
    deviceSynchronize=capture.refuse_synchronization,
    streamCaptureModeGlobal=capture.GLOBAL,
    streamCaptureModeThreadLocal=capture.THREAD_LOCAL,
    streamCaptureModeRelaxed=capture.RELAXED,
    memcpy=lambda target, source, size, kind: ctypes.memmove(target, source, size),
    memGetInfo=lambda: (8 << 30, 8 << 30),
    getDeviceProperties=lambda device: {"name": b"Host build"},
    runtimeGetVersion=lambda: 13000,
    driverGetVersion=lambda: 13000,
)
