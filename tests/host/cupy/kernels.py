"""Kernels: the same sources that NVRTC compiles, built by g++ and run on the CPU.

``DCNN_HOST_SEED`` other than 0 runs the threads of a block, and the blocks, in a random order.
"""

import ctypes
import itertools
import os

import cupy.cuda
import host_build
import numpy as np
from cupy import capture
from cupy.arrays import ndarray

#: (source, kernel) of every kernel that was launched.
LAUNCHED: set[tuple[str, str]] = set()
_launches = itertools.count()


class _Launch(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_ulonglong),
        ("seed", ctypes.c_ulonglong),
        ("capability", ctypes.c_uint),
        ("count", ctypes.c_uint),
        ("arguments", ctypes.POINTER(host_build.Argument)),
    )


def _pack(argument):
    """An argument's type, and a buffer that holds its value. Python numbers are as wide as CuPy makes them."""
    if isinstance(argument, ndarray):
        return host_build.Type(b"P", argument.dtype.kind.encode(), argument.itemsize), ctypes.c_void_p(argument.data.ptr)
    if argument is None:
        argument = np.uintp(0)
    if isinstance(argument, np.ndarray):
        if argument.size != 1 or argument.dtype.kind != "V":
            raise TypeError(f"Only structs are passed by value, as arrays of size one; got {argument.dtype} of {argument.shape}")
        return host_build.Type(b"?", b"\0", argument.itemsize), ctypes.create_string_buffer(argument.tobytes(), argument.itemsize)
    if not isinstance(argument, (bool, int, float, np.generic)):
        raise TypeError(f"Unsupported type {type(argument)}")
    if isinstance(argument, np.void):
        kind, value = b"?", argument
    else:
        value = np.asarray(argument)[()]
        kind = value.dtype.kind.encode()
    return host_build.Type(kind, b"\0", value.dtype.itemsize), ctypes.create_string_buffer(value.tobytes(), value.dtype.itemsize)


def _check_types(**values):
    """CuPy's own are compiled for these types and take no others, lists for tuples neither."""
    for name, (value, kind) in values.items():
        if not isinstance(value, kind):
            raise TypeError(f"Argument '{name}' has incorrect type (expected {kind.__name__}, got {type(value).__name__})")


class RawKernel:
    """One kernel of a module, compiled when it is first launched."""

    def __init__(self, code, name="kernel", options=(), backend="nvrtc"):
        _check_types(code=(code, str), name=(name, str), options=(options, tuple), backend=(backend, str))
        self.name, self._code, self._options = name, code, options
        self.max_dynamic_shared_size_bytes = cupy.cuda.PLAIN_SHARED_BYTES

    def compile(self, log_stream=None):
        include = tuple(option[2:] for option in self._options if option.startswith("-I"))
        try:
            return host_build.build(self._code, self.name, include)
        except host_build.BuildError as error:
            raise cupy.cuda.CompileException(str(error)) from None

    def __call__(self, grid, block, args, *, shared_mem=0):
        _check_types(grid=(grid, tuple), block=(block, tuple))
        run = self.compile()
        LAUNCHED.add((self._code, self.name))
        self._check(grid, block, shared_mem)
        packed = [_pack(argument) for argument in args]
        arguments = (host_build.Argument * len(packed))(
            *(host_build.Argument(kind, ctypes.cast(ctypes.byref(value), ctypes.c_void_p)) for kind, value in packed)
        )
        three = ctypes.c_uint * 3
        seed = int(os.environ.get("DCNN_HOST_SEED", "0"))
        launch = _Launch(
            three(*grid, *(1,) * (3 - len(grid))),
            three(*block, *(1,) * (3 - len(block))),
            shared_mem,
            seed and seed + next(_launches),
            int(cupy.cuda.Device().compute_capability),
            len(packed),
            arguments,
        )

        def execute(*arrays, kept=(packed, arguments)):
            message = ctypes.create_string_buffer(500)
            if run(ctypes.byref(launch), message, ctypes.c_size_t(len(message))):
                raise cupy.cuda.CUDARuntimeError(message.value.decode())

        capture.load(self._code, self.name)
        capture.run(execute, *(argument._host for argument in args if isinstance(argument, ndarray)))

    def _check(self, grid, block, shared):
        """What a device refuses to launch."""
        for name, sizes, limits in (("grid", grid, (2**31 - 1, 65535, 65535)), ("block", block, (1024, 1024, 64))):
            if not 1 <= len(sizes) <= 3 or any(not 1 <= size <= limit for size, limit in zip(sizes, limits, strict=False)):
                raise cupy.cuda.CUDARuntimeError(f"CUDA_ERROR_INVALID_VALUE: {name} {sizes}, the limits are {limits}")
        if np.prod(block) > 1024:
            raise cupy.cuda.CUDARuntimeError(f"CUDA_ERROR_INVALID_VALUE: a block of {block} has more than 1024 threads")
        allowed = max(self.max_dynamic_shared_size_bytes, cupy.cuda.PLAIN_SHARED_BYTES)
        largest = cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]
        if shared > min(allowed, largest):
            raise cupy.cuda.CUDARuntimeError(
                f"CUDA_ERROR_INVALID_VALUE: {shared} bytes of dynamic shared memory, {allowed} asked for, {largest} there are"
            )


class RawModule:
    """A source, and the instances of its templates that may be asked for."""

    def __init__(self, *, code=None, options=(), backend="nvrtc", name_expressions=None):
        _check_types(code=(code, str), options=(options, tuple), backend=(backend, str))
        self._code, self._options, self._names = code, options, tuple(name_expressions or ())

    def get_function(self, name):
        _check_types(name=(name, str))
        if name not in self._names:
            raise cupy.cuda.CUDARuntimeError(f"CUDA_ERROR_NOT_FOUND: {name} is none of {self._names}")
        return RawKernel(self._code, name, self._options)


#: The little that elementwise kernels see of CuPy's own headers.
_PREAMBLE = """
using float16 = __half;
template <typename T>
struct CArray {
    T* data;
    ptrdiff_t size_, ndim_, shape_[8], strides_[8];
    ptrdiff_t size() const { return size_; }
    const ptrdiff_t* shape() const { return shape_; }
    const ptrdiff_t* strides() const { return strides_; }
    T* at(ptrdiff_t i) const {
        ptrdiff_t offset = 0;
        for (ptrdiff_t axis = ndim_ - 1; axis >= 0; --axis) {
            offset += i % shape_[axis] * strides_[axis];
            i /= shape_[axis];
        }
        return reinterpret_cast<T*>(reinterpret_cast<char*>(data) + offset);
    }
    T& operator[](ptrdiff_t i) { return *at(i); }
    const T& operator[](ptrdiff_t i) const { return *at(i); }
};
struct CIndexer {
    ptrdiff_t size_;
    ptrdiff_t size() const { return size_; }
};
"""
_TYPENAMES = {
    "?": "bool",
    "b": "signed char",
    "h": "short",
    "i": "int",
    "l": "long long",
    "q": "long long",
    "B": "unsigned char",
    "H": "unsigned short",
    "I": "unsigned int",
    "L": "unsigned long long",
    "Q": "unsigned long long",
    "e": "float16",
    "f": "float",
    "d": "double",
}


class _Parameter:
    def __init__(self, text, is_const):
        *words, kind, self.name = text.split()
        if any(word != "raw" for word in words):
            raise ValueError(f"Unknown keyword in {text!r}")
        self.raw, self.is_const = "raw" in words, is_const
        self.letter, self.dtype = (kind, None) if len(kind) == 1 else (None, np.dtype(kind))


def _parameters(text, is_const):
    return [_Parameter(part, is_const) for part in text.split(",")] if text.strip() else []


class ElementwiseKernel:
    """An operation on each element of the broadcast arrays, its types deduced as CuPy does."""

    def __init__(self, in_params, out_params, operation, name="kernel", reduce_dims=True, preamble="", **options):
        self._in, self._out = _parameters(in_params, True), _parameters(out_params, False)
        self._operation, self.name, self._preamble = operation, name, preamble
        self._loop_prep, self._after_loop = options.pop("loop_prep", ""), options.pop("after_loop", "")
        self._no_return, self._return_tuple = options.pop("no_return", False), options.pop("return_tuple", False)
        if options:
            raise TypeError(f"Wrong arguments {options}")
        if "i" in {parameter.name for parameter in self._in + self._out}:
            raise ValueError("Can not use 'i' as a parameter name")

    def __call__(self, *args, size=-1, block_size=128, stream=None):
        if len(args) not in (len(self._in), len(self._in) + len(self._out)):
            raise TypeError(f"Wrong number of arguments for {self.name!r}: {len(args)}")
        for argument in args:
            if isinstance(argument, np.ndarray) or not isinstance(argument, (ndarray, bool, int, float, np.generic)):
                raise TypeError(f"Unsupported type {type(argument)}")
            if isinstance(argument, ndarray) and argument.data.device_id != cupy.cuda.get_device_id():
                raise ValueError(f"The device where the array resides ({argument.data.device_id}) isn't the current one.")
        given, out = list(args[: len(self._in)]), list(args[len(self._in) :])
        parameters = self._in + self._out
        looped = [a for a, p in zip(args, parameters, strict=False) if isinstance(a, ndarray) and not p.raw]
        if (size != -1) == bool(looped):
            raise ValueError("Loop size is undecided, or 'size' given with arrays that aren't raw.")
        shape = (size,) if size != -1 else np.broadcast_shapes(*(array.shape for array in looped))
        types = self._types(given, out)
        if not out:
            if any(parameter.raw for parameter in self._out) and size == -1:
                raise ValueError("Output array size is Undecided")
            out = [ndarray(shape, parameter.dtype or types[parameter.letter]) for parameter in self._out]
        for array, parameter in zip(out, self._out, strict=True):
            if not isinstance(array, ndarray):
                raise TypeError("Output arguments type must be cupy.ndarray")
            if not parameter.raw and array.shape != shape:
                raise ValueError(f"Out shape is mismatched: {array.shape} and {shape}")
        if 0 not in shape:
            self._launch(given + out, parameters, types, shape, block_size)
        if self._no_return:
            return None
        return out[0] if len(out) == 1 and not self._return_tuple else tuple(out)

    def _types(self, given, out):
        """The type that each letter stands for; arrays of one letter must agree."""
        types = {}
        for array, parameter in [*zip(out, self._out, strict=False), *zip(given, self._in, strict=True)]:
            if isinstance(array, ndarray):
                expected = parameter.dtype or types.setdefault(parameter.letter, array.dtype)
                if expected != array.dtype:
                    raise TypeError(f"Type is mismatched. {parameter.name} {array.dtype} {expected}")
        return types

    def _launch(self, values, parameters, types, shape, block_size):
        declared, reads, packed = [], [], []
        for value, parameter in zip(values, parameters, strict=True):
            dtype = parameter.dtype or types[parameter.letter]
            typename, const = _TYPENAMES[dtype.char], "const " if parameter.is_const else ""
            if isinstance(value, ndarray):
                host = value._host if parameter.raw else np.broadcast_to(value._host, shape)
                name = parameter.name if parameter.raw else f"_raw_{parameter.name}"
                declared.append(f"{const}CArray<{typename}> {name}")
                if not parameter.raw:
                    reads.append(f"{const}{typename}& {parameter.name} = {name}[i];")
                layout = np.zeros(19, np.int64)
                layout[:3] = value.data.ptr, host.size, host.ndim
                layout[3 : 3 + host.ndim], layout[11 : 11 + host.ndim] = host.shape, host.strides
                packed.append(layout.view("V152")[0])
            else:
                declared.append(f"{const}{typename} {parameter.name}")
                packed.append(dtype.type(value))
        count = int(np.prod(shape))
        packed.append(np.array([count]).view("V8")[0])
        typedefs = "".join(f"typedef {_TYPENAMES[dtype.char]} {letter};\n" for letter, dtype in sorted(types.items()))
        code = (
            f"{_PREAMBLE}{typedefs}{self._preamble}\n__global__ void {self.name}({', '.join(declared)}, CIndexer _ind) {{\n"
            f"{self._loop_prep};\n"
            "for (ptrdiff_t i = ptrdiff_t(blockIdx.x) * blockDim.x + threadIdx.x; i < _ind.size(); "
            "i += ptrdiff_t(blockDim.x) * gridDim.x) {\n"
            f"{' '.join(reads)}\n{self._operation};\n}}\n{self._after_loop};\n}}\n"
        )
        RawKernel(code, self.name)((min(-(-count // block_size), 1024),), (block_size,), packed)
