"""Runs what CuPy has compiled: the sources, ours and CuPy's own, built by g++ as for the stand-in."""

import ctypes
import functools
import re
import sys
from pathlib import Path

from tests.host import host_build
from tests.host.real_cupy import cuda

HEADERS = Path(__file__).with_name("cupy_host.h")
#: Expressions of template instances, by the names that NVRTC gave them.
_expressions: dict[str, str] = {}


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


def install():
    """From now on it is known of what source each module is, which its code doesn't tell."""
    from cupy.cuda import compiler

    compile_module = compiler._compile_module_with_cache

    @functools.wraps(compile_module)
    def noting(source, options=(), **settings):
        cuda.thread.source = source, tuple(options)
        try:
            module = compile_module(source, options, **settings)
        finally:
            cuda.thread.source = None
        _expressions.update({name: expression for expression, name in (module.mapping or {}).items()})
        return module

    compiler._compile_module_with_cache = noting
    cuda.prepare = prepare


def prepare(name, source, grid, block, shared, parameters):
    """Reads a launch's parameters; gives what runs it and says whether it went well."""
    run, types = _built(_expressions.get(name, name), *source)
    values = [ctypes.string_at(parameters[place], 8 if kind.kind == b"P" else kind.size) for place, kind in enumerate(types)]
    three = ctypes.c_uint * 3

    def launch():
        buffers = [ctypes.create_string_buffer(value, len(value)) for value in values]
        pairs = zip(types, map(ctypes.addressof, buffers), strict=True)
        arguments = (host_build.Argument * len(types))(*(host_build.Argument(*pair) for pair in pairs))
        message = ctypes.create_string_buffer(500)
        given = _Launch(three(*grid), three(*block), shared, 0, 90, len(types), arguments)
        failed = run(ctypes.byref(given), message, ctypes.c_size_t(len(message)))
        if failed:
            print(f"{name}: {message.value.decode()}", file=sys.stderr)
        return not failed

    return launch


@functools.cache
def _built(expression, code, options):
    """The function that launches a kernel, and its parameters' types."""
    include = [option[2:] for option in options if option.startswith("-I")]
    if "<cupy/carray.cuh>" in code:  # one of CuPy's own
        code = HEADERS.read_text(encoding="utf-8") + re.sub(r'#include [<"]cupy/.*[>"]', "", code)
        include = [folder for folder in include if (Path(folder) / "cupy" / "carray.cuh").exists()]
    else:
        include = [folder for folder in include if any(Path(folder).glob("*.cuh"))]
    return host_build.build(code, expression, tuple(include)), host_build.parameters(code, expression, tuple(include))
