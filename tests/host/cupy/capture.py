"""Stream capture: what is done on a capturing stream is noted, not done, and a graph's launch does it.

A graph holds addresses. Arrays that it was captured with may be gone when it is launched; memory that CUDA would have given to
another by then is refused here, which CUDA doesn't do.
"""

import threading
from types import SimpleNamespace

import cupy.cuda
import numpy as np

GLOBAL, THREAD_LOCAL, RELAXED = range(3)
#: What begins each function or kernel: its module is loaded, which a capture doesn't allow.
_loaded: set = set()
#: Captures under way, by the stream's pointer.
_captures: dict[int, "Capture"] = {}


class Capture:
    """A capture under way."""

    def __init__(self, stream, mode):
        self.stream, self.mode, self.thread = stream, mode, threading.get_ident()
        self.operations, self.valid = [], True

    def invalidate(self, error):
        self.valid = False
        raise cupy.cuda.CUDARuntimeError(error)


class Graph:
    """A captured graph."""

    def __init__(self, *args, **kwargs):
        raise NotImplementedError("currently this class cannot be initiated by the user, it must be created via stream capture")

    def launch(self, stream=None):
        stream = stream or cupy.cuda.get_current_stream()
        if stream.ptr in _captures:
            raise NotImplementedError("the stand-in captures no graph in a graph")
        if cupy.cuda.get_device_id() != self._device:
            raise cupy.cuda.CUDARuntimeError("cudaErrorInvalidValue: the graph belongs to another device")
        for operation in self._operations:
            operation()

    def upload(self, stream=None):
        """Nothing to prepare."""


class Place:
    """Where an array lies, which doesn't keep its memory."""

    def __init__(self, host):
        self._address, self._strides = host.__array_interface__["data"][0], host.strides
        self._shape, self._dtype = host.shape, host.dtype
        self._span = np.lib.array_utils.byte_bounds(host) if host.size else None

    def array(self):
        """The array, if its memory is still a device array's or a pool's."""
        if self._span is None:
            return np.empty(self._shape, self._dtype)
        if not cupy.cuda.is_allocated(*self._span):
            raise cupy.cuda.CUDARuntimeError("cudaErrorIllegalAddress: the graph reads or writes memory that was given back")
        interface = {"shape": self._shape, "strides": self._strides, "typestr": self._dtype.str, "version": 3}
        return np.asarray(SimpleNamespace(__array_interface__=interface | {"data": (self._address, False)}))


def begin(stream, mode):
    if stream.ptr in (0, 1):
        raise RuntimeError("cannot capture on the default (legacy) stream")
    if stream.ptr in _captures:
        raise cupy.cuda.CUDARuntimeError("cudaErrorIllegalState: the stream is capturing already")
    _captures[stream.ptr] = Capture(stream, RELAXED if mode is None else mode)


def end(stream):
    capture = _captures.get(stream.ptr)
    if capture is None:
        raise cupy.cuda.CUDARuntimeError("cudaErrorIllegalState: the stream isn't capturing")
    if capture.mode != RELAXED and capture.thread != threading.get_ident():
        raise cupy.cuda.CUDARuntimeError("cudaErrorStreamCaptureWrongThread")
    del _captures[stream.ptr]
    if not capture.valid:
        raise cupy.cuda.CUDARuntimeError("cudaErrorStreamCaptureInvalidated")
    graph = Graph.__new__(Graph)
    graph._operations, graph._device = tuple(capture.operations), stream.device_id
    return graph


def is_capturing(stream):
    if stream.ptr == 0:
        _refuse_implicit()
    capture = _captures.get(stream.ptr)
    if capture is not None and not capture.valid:
        raise RuntimeError("the stream was capturing, but an error has invalidated the capture sequence")
    return capture is not None


def current():
    """The current stream's capture, if there is one, to add to."""
    stream = cupy.cuda.get_current_stream()
    if stream.ptr == 0:
        _refuse_implicit()
    capture = _captures.get(stream.ptr)
    if capture is not None and not capture.valid:
        raise cupy.cuda.CUDARuntimeError("cudaErrorStreamCaptureInvalidated")
    return capture


def _refuse_implicit():
    for capture in _captures.values():
        if not capture.stream.is_non_blocking:
            capture.invalidate("cudaErrorStreamCaptureImplicit: the default stream would wait for a capturing one")


def refuse_transfer(what):
    """Between host and device: CuPy asks before it copies, so that the capture stays valid."""
    if current() is not None:
        raise RuntimeError(f"the current stream is capturing, so {what} transfers are disallowed")


def refuse_cublas():
    if current() is not None:
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")


def refuse_unsafe(call):
    """Calls that only the relaxed mode allows."""
    for capture in _captures.values():
        own = capture.thread == threading.get_ident()
        if capture.mode == GLOBAL or (capture.mode == THREAD_LOCAL and own):
            capture.invalidate(f"cudaErrorStreamCaptureUnsupported: {call}")


def refuse_synchronization(stream=None):
    """Of a stream, or of the device with all its streams."""
    for capture in _captures.values():
        if stream is None or stream.ptr == capture.stream.ptr:
            capture.invalidate("cudaErrorStreamCaptureUnsupported: it would wait for a capturing stream")


def load(*what):
    """Notes that a module is loaded, which isn't done while capturing."""
    capture, known = current(), (cupy.cuda.get_device_id(), *what)
    if known not in _loaded:
        if capture is not None:
            capture.invalidate(f"cudaErrorStreamCaptureUnsupported: {what} was never launched on this device before")
        _loaded.add(known)


def placed(value):
    """Arguments with their arrays as places."""
    if isinstance(value, np.ndarray):
        return Place(value)
    if isinstance(value, (tuple, list)):
        return type(value)(map(placed, value))
    return {key: placed(part) for key, part in value.items()} if isinstance(value, dict) else value


def arrays(value):
    """The reverse."""
    if isinstance(value, Place):
        return value.array()
    if isinstance(value, (tuple, list)):
        return type(value)(map(arrays, value))
    return {key: arrays(part) for key, part in value.items()} if isinstance(value, dict) else value


def run(function, *args, **kwargs):
    """Calls a function that writes to one of its host arrays; where the current stream is capturing, at the graph's launch."""
    capture = current()
    if capture is None:
        return function(*args, **kwargs)
    args, kwargs = placed(args), placed(kwargs)
    capture.operations.append(lambda: function(*arrays(args), **arrays(kwargs)))
    return None
