"""Devices, streams and memory. Every device array is a block of its own from malloc, of its very size, so that
AddressSanitizer sees the first byte beyond it; memory that nobody wrote is 0xff, NaN in every float type.
"""

import ctypes
import os
import time
from types import SimpleNamespace
from typing import ClassVar

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
            "WarpSize": 32,
        }

    @property
    def mem_info(self):
        return runtime.memGetInfo()


class Stream:
    """A stream; work on it is done at once."""

    _stack: ClassVar = []

    def __init__(self, null=False, non_blocking=False, ptds=False):
        self.ptr = 0 if null else id(self)

    @classmethod
    def from_external(cls, obj):
        """The stream of another library, which tells (version, pointer)."""
        stream = cls.__new__(cls)
        version, stream.ptr = obj.__cuda_stream__()
        if version != 0 or not isinstance(stream.ptr, int):
            raise TypeError(f"__cuda_stream__() must return (0, int), got {(version, stream.ptr)}")
        return stream

    def __enter__(self):
        self._stack.append(self)
        return self

    def __exit__(self, *exception):
        self._stack.pop()

    def synchronize(self):
        pass


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
    return Stream._stack[-1] if Stream._stack else Stream.null


def get_device_id():
    return _current_device


def is_available():
    return True


class MemoryPool:
    """Counts what is allocated, and refuses what goes over its limit."""

    def __init__(self):
        self._used = self._limit = self._total = 0

    def add(self, size):
        """Counts bytes taken; those of negative number are given back, but stay in the pool."""
        self._used += size
        self._total = max(self._total, self._used)

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
        self._total = self._used


_pool = MemoryPool()


def get_default_memory_pool():
    return _pool


def get_default_pinned_memory_pool():
    return None


class Memory:
    """A block of device memory, as NumPy's array interface shows it."""

    def __init__(self, size):
        self.size, self.device_id, self.ptr = size, _current_device, 0
        if _pool._limit and _pool.used_bytes() + size > _pool._limit:
            self.size = 0
            raise OutOfMemoryError(f"Out of memory allocating {size} bytes (allocated so far: {_pool._used} bytes)")
        if size:
            pointer = ctypes.c_void_p()
            if _libc.posix_memalign(ctypes.byref(pointer), ALIGNMENT, size):
                raise OutOfMemoryError(f"Out of memory allocating {size} bytes")
            self.ptr = pointer.value
            ctypes.memset(self.ptr, 0xFF, size)
            _pool.add(size)

    def __del__(self):
        if self.ptr:
            _pool.add(-self.size)
            _libc.free(self.ptr)

    @property
    def __array_interface__(self):
        # NumPy takes no null pointer, even of nothing.
        return {"shape": (self.size,), "typestr": "|u1", "data": (self.ptr or ALIGNMENT, False), "version": 3}


class Borrowed:
    """Memory that another library owns."""

    def __init__(self, ptr, size, device_id):
        self.ptr, self.size, self.device_id = ptr, size, device_id


class MemoryPointer:
    """A place in a block of device memory."""

    def __init__(self, mem, offset=0):
        self.mem, self.offset, self.ptr = mem, offset, mem.ptr + offset
        self.device_id, self.device = mem.device_id, Device(mem.device_id)

    def __add__(self, offset):
        return MemoryPointer(self.mem, self.offset + offset)


def alloc(size):
    return MemoryPointer(Memory(size))


def set_allocator(allocator=None):
    """Every array has a block of its own already."""


runtime = SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError,
    getDevice=get_device_id,
    getDeviceCount=lambda: DEVICES,
    deviceSynchronize=lambda: None,
    memcpy=lambda target, source, size, kind: ctypes.memmove(target, source, size),
    memGetInfo=lambda: (8 << 30, 8 << 30),
    getDeviceProperties=lambda device: {"name": b"Host build"},
    runtimeGetVersion=lambda: 13000,
    driverGetVersion=lambda: 13000,
)
