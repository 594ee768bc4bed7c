"""``cupy.ndarray``: device memory behind NumPy's own arithmetic. It is no numpy.ndarray, and never becomes one unasked."""

import operator
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import cupy.cuda
import numpy as np
from cupy import capture

#: Functions of CuPy's that NumPy has by the same name and meaning.
FUNCTIONS = """
absolute add all allclose any arange argmax argmin array_equal array_split atleast_1d broadcast_arrays broadcast_to clip
concatenate copysign cumsum divide dot einsum equal exp expand_dims flip float_power floor_divide full_like greater
greater_equal isfinite isinf isnan less less_equal log logical_and logical_not matmul max maximum mean min minimum moveaxis
multiply nanmax negative not_equal ones ones_like pad power prod reciprocal repeat reshape rollaxis sign signbit sqrt square
squeeze stack subtract sum swapaxes take tensordot tile transpose true_divide unpackbits packbits vstack where zeros_like
""".split()  # noqa: SIM905
CONSTANTS = """
bool_ complex64 dtype e float16 float32 float64 inf int8 int16 int32 int64 intp nan newaxis pi uint8 uint16 uint32 uint64
""".split()  # noqa: SIM905
METHODS = """
all any argmax argmin astype copy cumsum dot flatten max mean min prod ravel repeat reshape squeeze sum swapaxes take transpose
view
""".split()  # noqa: SIM905
#: DLPack's number for memory of CUDA devices.
CUDA = 2
#: In half precision CuPy multiplies and sums in float32.
BY_CUBLAS = {"matmul", "dot", "einsum", "tensordot"}
IN_SINGLE = {*BY_CUBLAS, "sum", "mean"}


class ndarray:
    """A device array. ``memptr`` and ``strides`` make one of memory that is there already."""

    __array_priority__ = 100
    __hash__ = None

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        dtype, shape = np.dtype(dtype), tuple(map(operator.index, shape if np.iterable(shape) else (shape,)))
        if memptr is None:
            memptr = cupy.cuda.alloc(dtype.itemsize * int(np.prod(shape)))
        block = np.asarray(memptr.mem)
        if block.size == 0:
            self._host = np.empty(shape, dtype, order)
        else:
            self._host = np.ndarray(shape, dtype, block, memptr.offset, strides, order)
        self._memory = memptr.mem

    @property
    def data(self):
        if not self._memory.ptr:
            return cupy.cuda.MemoryPointer(self._memory)
        return cupy.cuda.MemoryPointer(self._memory, self._host.__array_interface__["data"][0] - self._memory.ptr)

    @property
    def device(self):
        return cupy.cuda.Device(self._memory.device_id)

    @property
    def __cuda_array_interface__(self):
        interface = dict(self._host.__array_interface__)
        interface["data"] = (self.data.ptr, False)
        return interface

    def __dlpack_device__(self):
        return (CUDA, self._memory.device_id)

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        """The memory in a capsule. It says that it is the host's, for who reads it has no other."""
        if stream == 0:
            raise ValueError("0 is no stream to DLPack: 1 is the legacy default stream")
        return self._host.__dlpack__(max_version=max_version)

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: self._host.flags)
    T = property(lambda self: _wrap(self._host.T, [self]))

    def get(self, stream=None, order="C", out=None, blocking=True):
        """Copies to the host."""
        capture.refuse_transfer("D2H")
        if out is not None:
            out[...] = self._host
            return out
        return np.array(self._host, order=order)

    def set(self, array, stream=None):
        """Copies from the host."""
        if not isinstance(array, np.ndarray):
            raise TypeError(f"Only numpy.ndarray can be set to cupy.ndarray, got {type(array)}")
        capture.refuse_transfer("H2D")
        self._host[...] = array

    def reduced_view(self):
        """CuPy's with fewer axes; Chainer's kernels take either."""
        return self

    def fill(self, value):
        capture.load("copy", self.dtype)
        capture.run(np.ndarray.fill, self._host, value)

    def item(self, *index):
        return self.get().item(*index)

    def tolist(self):
        return self.get().tolist()

    def __array__(self, *args, **kwargs):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        if method != "__call__":
            return NotImplemented
        return _apply(ufunc, inputs, kwargs)

    def __array_function__(self, function, types, args, kwargs):
        if function.__name__ not in FUNCTIONS or not all(issubclass(kind, ndarray) for kind in types):
            return NotImplemented
        return _apply(function, args, kwargs)

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index):
        _check_index(index)
        return _call(operator.getitem, (self._host, _unwrap(index)), {}, [self], "getitem")

    def __setitem__(self, index, value):
        _check_index(index)
        capture.load("copy", self.dtype)
        capture.run(operator.setitem, self._host, _unwrap(index), _unwrap(value))

    def __bool__(self):
        return bool(self.get())

    def __int__(self):
        return int(self.get())

    def __float__(self):
        return float(self.get())

    def __repr__(self):
        return repr(self.get())

    def __format__(self, spec):
        return format(self.get(), spec)


def _method(name):
    def method(self, *args, **kwargs):
        return _apply(lambda array, *rest, **named: getattr(array, name)(*rest, **named), (self, *args), kwargs, name)

    return method


def _binary(function):
    return lambda self, other: _apply(function, (self, other))


def _unary(function):
    return lambda self: _apply(function, (self,))


def _reflected(function):
    return lambda self, other: _apply(function, (other, self))


def _in_place(function):
    return lambda self, other: _apply(function, (self, other), {"out": self})


for _name in METHODS:
    setattr(ndarray, _name, _method(_name))
for _name, _ufunc in {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "truediv": np.true_divide,
    "floordiv": np.floor_divide,
    "mod": np.remainder,
    "pow": np.power,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "lshift": np.left_shift,
    "rshift": np.right_shift,
    "matmul": np.matmul,
}.items():
    setattr(ndarray, f"__{_name}__", _binary(_ufunc))
    setattr(ndarray, f"__r{_name}__", _reflected(_ufunc))
    setattr(ndarray, f"__i{_name}__", _in_place(_ufunc))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(ndarray, f"__{_name}__", _binary(getattr(operator, _name)))
for _name in ("neg", "abs", "invert"):
    setattr(ndarray, f"__{_name}__", _unary(getattr(operator, _name)))


def _check_index(index):
    """Lists in an index are copied to the device."""
    if any(isinstance(part, list) for part in (index if isinstance(index, tuple) else (index,))):
        capture.refuse_transfer("H2D")


def _unwrap(value):
    """The host memory of device arrays, in tuples and lists too; arrays of the host are refused as CuPy does."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, (tuple, list)):
        return type(value)(map(_unwrap, value))
    return value


def _arrays(value):
    if isinstance(value, ndarray):
        return [value]
    return [array for part in value for array in _arrays(part)] if isinstance(value, (tuple, list)) else []


def _wrap(result, sources, new=None):
    """A result as a device array: a view of the source whose memory it shows, or a block of its own, which ``new`` makes."""
    if isinstance(result, (tuple, list)):
        return type(result)(_wrap(part, sources) for part in result)
    if not isinstance(result, (np.ndarray, np.generic)):
        return result
    for source in sources:
        if result is source._host:
            return source
        if isinstance(result, np.ndarray) and np.may_share_memory(result, source._host):
            view = ndarray.__new__(ndarray)
            view._host, view._memory = result, source._memory
            return view
    return (new or array)(np.asarray(result))


def _apply(function, args, kwargs=None, name=""):
    kwargs = kwargs or {}
    sources = _arrays(args) + _arrays(tuple(kwargs.values()))
    for source in sources:
        if source._memory.device_id != cupy.cuda.get_device_id():
            raise ValueError(f"The array resides on device {source._memory.device_id}, which isn't the current one.")
    host_args, host_kwargs = _unwrap(tuple(args)), {key: _unwrap(value) for key, value in kwargs.items()}
    name = name or getattr(function, "__name__", "")
    if name in BY_CUBLAS:
        capture.refuse_cublas()
    if name in IN_SINGLE and any(source.dtype == np.float16 for source in sources):
        return _call(partial(_in_single, function), host_args, host_kwargs, [], name)
    return _call(function, host_args, host_kwargs, sources, name)


def _in_single(function, *args, **kwargs):
    args = tuple(part.astype(np.float32) if isinstance(part, np.ndarray) else part for part in args)
    return np.asarray(function(*args, **kwargs)).astype(np.float16)


def _call(function, args, kwargs, sources, name):
    """A function's result as a device array. While capturing, what it will be is not known yet, only its shape."""
    kernel = (name, *(source.dtype for source in sources))
    if "out" in kwargs:
        capture.load(*kernel)
        capture.run(function, *args, **kwargs)
        return _wrap(kwargs["out"], sources)
    with np.errstate(all="ignore") if capture.current() else nullcontext():
        result = function(*args, **kwargs)
    return _wrap(result, sources, lambda host: _computed(host, function, args, kwargs, kernel))


def _computed(host, function, args, kwargs, kernel):
    """A block for a result, filled by the function, when the graph is launched if one is being captured."""
    capture.load(*kernel)
    if capture.current() is None:
        return array(host)
    result = ndarray(host.shape, host.dtype, order="F" if host.flags.f_contiguous and not host.flags.c_contiguous else "C")

    def compute(target, args, kwargs):
        target[...] = function(*args, **kwargs)

    capture.run(compute, result._host, args, kwargs)
    return result


def lookup(name):
    """One of the functions or constants that are NumPy's own but for the arrays they take."""
    if name in CONSTANTS:
        return getattr(np, name)
    if name not in FUNCTIONS:
        raise AttributeError(f"the stand-in for CuPy has no {name!r}")
    function = getattr(np, name)

    def call(*args, **kwargs):
        return _apply(function, args, kwargs)

    call.__name__ = name
    return call


def array(obj, dtype=None, copy=True, order="K"):
    """Copies to the device, or on it."""
    if not isinstance(obj, ndarray):
        capture.refuse_transfer("H2D")
    host = np.asarray(_unwrap(obj) if not isinstance(obj, np.ndarray) else obj, dtype)
    if order in ("K", "A"):
        order = "F" if host.flags.f_contiguous and not host.flags.c_contiguous else "C"
    result = ndarray(host.shape, host.dtype, order=order)
    if isinstance(obj, ndarray):
        result[...] = obj
    else:
        result._host[...] = host
    return result


def asarray(a, dtype=None, order=None):
    if isinstance(a, ndarray) and (dtype is None or a.dtype == dtype) and order is None:
        return a
    return array(a, dtype, order=order or "K")


def copyto(dst, src):
    dst[...] = src


def from_dlpack(array):
    """An array that shares another library's memory."""
    kind, device_id = array.__dlpack_device__()
    if kind != CUDA:
        raise TypeError(f"Unsupported array type: {kind}")
    capsule = array.__dlpack__(stream=cupy.cuda.get_current_stream().ptr or 1, max_version=(1, 0), copy=None)
    result = ndarray.__new__(ndarray)
    result._host = np.from_dlpack(SimpleNamespace(__dlpack__=lambda **_: capsule, __dlpack_device__=lambda: (1, 0)))
    result._memory = cupy.cuda.Borrowed(result._host.__array_interface__["data"][0], result._host.nbytes, device_id)
    return result


def ascontiguousarray(a, dtype=None):
    if isinstance(a, ndarray) and (dtype is None or a.dtype == dtype) and a.flags.c_contiguous:
        return a
    return array(a, dtype, order="C")


def asnumpy(a, stream=None, order="C"):
    return a.get(order=order) if isinstance(a, ndarray) else np.asarray(a, order=order)


def empty(shape, dtype=float, order="C"):
    return ndarray(shape, dtype, order=order)


def full(shape, fill_value, dtype=None):
    result = ndarray(shape, np.asarray(_unwrap(fill_value)).dtype if dtype is None else dtype)
    result[...] = fill_value
    return result


def zeros(shape, dtype=float, order="C"):
    result = ndarray(shape, dtype, order=order)
    result.fill(0)
    return result


def empty_like(prototype, dtype=None, order="K", subok=None, shape=None):
    like = np.empty_like(prototype._host, dtype, order)
    return ndarray(like.shape if shape is None else shape, like.dtype, order="C" if like.flags.c_contiguous else "F")
