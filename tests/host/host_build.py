"""Builds .cu sources with g++ for the CPU, kernel by kernel, into shared libraries kept by the digest of what made them.

``DCNN_HOST_SANITIZER`` chooses the build: ``address`` (AddressSanitizer and UndefinedBehaviorSanitizer), ``thread``
(ThreadSanitizer, and a product and a sum in one rounding, as CUDA's compilers make of them), or ``none``. A sanitizer must be
loaded before Python is: see :func:`environment`. With ``accesses``, which is no sanitizer, the compiler's hooks call
``accesses.cpp``, and warps run in lockstep. ``DCNN_HOST_CACHE`` names another folder for the libraries.
"""

from __future__ import annotations

import csv
import ctypes
import functools
import hashlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("DCNN_HOST_CACHE", HERE.parents[1] / ".cache" / "host"))
RESOURCES = HERE.parents[1] / "kernels" / "dcnn_kernels" / "cuda" / "resources.csv"
#: Kernels of a library at most.
TOGETHER = 12

FLAGS = ("-std=c++17", "-O1", "-g1", "-fPIC", "-shared", "-w", "-ffp-contract=off", "-fno-gnu-unique", "-fno-strict-aliasing")
SANITIZERS = {
    "none": (),
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-fsanitize=thread",),
    # Unoptimised, each access of the source is one of the program, as wide as written.
    "accesses": ("-O0", "-fsanitize=thread", "-fsanitize-coverage=trace-pc", "-nodefaultlibs", "-fno-threadsafe-statics"),
}


class BuildError(RuntimeError):
    """g++ refused the source."""


def compiler() -> str | None:
    """Path of g++, or None where there is none."""
    return shutil.which("g++")


def environment(sanitizer: str) -> dict[str, str]:
    """Environment variables under which a Python process can load what is built with a sanitizer."""
    variables = {"DCNN_HOST_SANITIZER": sanitizer}
    if sanitizer not in ("none", "accesses"):
        library = {"address": "libasan.so", "thread": "libtsan.so"}[sanitizer]
        variables["LD_PRELOAD"] = _run([str(compiler()), f"-print-file-name={library}"]).strip()
        # Python keeps what it allocated until the end; libraries share names on purpose.
        variables["ASAN_OPTIONS"] = "detect_leaks=0:detect_odr_violation=0"
        variables["UBSAN_OPTIONS"] = "print_stacktrace=1"
        variables["TSAN_OPTIONS"] = "halt_on_error=1:exitcode=66"
        # ThreadSanitizer doesn't see how NumPy's own threads wait for each other.
        variables["OPENBLAS_NUM_THREADS"] = "1"
    return variables


@functools.cache
def _contraction() -> tuple[str, ...]:
    """Options for one rounding of a product and a sum, where the processor has that."""
    facts = Path("/proc/cpuinfo")
    return ("-ffp-contract=fast", "-mfma") if facts.exists() and " fma " in facts.read_text(encoding="utf-8") else ()


def _sanitizer() -> str:
    return os.environ.get("DCNN_HOST_SANITIZER", "none")


@functools.cache
def _version() -> str:
    return _run([str(compiler()), "--version"])


def _run(command: Sequence[str]) -> str:
    plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    result = subprocess.run(command, capture_output=True, text=True, env=plain)
    if result.returncode:
        raise BuildError(f"{' '.join(command)}\n{result.stderr}")
    return result.stdout


def _compile(source: str, inputs: Sequence[Path], flags: Sequence[str]) -> Path:
    """Compiles a C++ text into a library, unless the cache has it. ``inputs`` are the files that the text includes."""
    digest = hashlib.sha256("\0".join([_version(), source, *flags]).encode())
    for path in inputs:
        digest.update(path.read_bytes())
    library = CACHE / f"{digest.hexdigest()[:32]}.so"
    if not library.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        # Another process may build the same: each writes its own file, and renames it when it is whole.
        text, built = library.with_suffix(f".{os.getpid()}.cpp"), library.with_suffix(f".{os.getpid()}.so")
        text.write_text(source, encoding="utf-8")
        try:
            _run([str(compiler()), *flags, str(text), "-o", str(built)])
            built.replace(library)
        finally:
            text.unlink()
    return library


@functools.cache
def _runtime() -> ctypes.CDLL:
    """The library that runs blocks and threads, its names visible to the kernels' libraries."""
    sources = (HERE / "cuda_host.cpp", HERE / "cuda_host.h")
    flags = (*FLAGS, "-O2", f"-I{HERE}", "-fno-tree-loop-distribute-patterns", "-fvisibility-inlines-hidden")
    library = _compile(f'#include "{sources[0]}"\n', sources, flags)
    return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


@functools.cache
def accesses() -> ctypes.CDLL:
    """The library whose hooks measure how memory is accessed; from when it is loaded, warps run in lockstep."""
    _runtime()
    source = HERE / "accesses.cpp"
    library = _compile(f'#include "{source}"\n', (source, HERE / "cuda_host.h"), (*FLAGS, "-O2", f"-I{HERE}"))
    return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


#: After the kernels: a function for each, which launches it. All that the library keeps in .bss is shared memory.
_TRAILER = """
extern "C" __attribute__((visibility("hidden"))) char __bss_start[], _end[];
"""
_ENTRY = """
extern "C" int dcnn_launch_{number}(const dcnn_host::Launch* launch, char* message, size_t message_size) {{
    return dcnn_host::Entry<&{expression}>::launch(*launch, __bss_start, _end, message, message_size);
}}
extern "C" const dcnn_host::Type* dcnn_parameters_{number}() {{ return dcnn_host::Entry<&{expression}>::parameters; }}
"""


class Type(ctypes.Structure):
    """What ``cuda_host.h`` says of an argument or a parameter."""

    _fields_ = (("kind", ctypes.c_char), ("element", ctypes.c_char), ("size", ctypes.c_uint))


class Argument(ctypes.Structure):
    """An argument, with where its value lies."""

    _fields_ = (("type", Type), ("value", ctypes.c_void_p))


@functools.cache
def _instances() -> dict[str, list[str]]:
    """The kernels that resources.csv lists, by the text of their source."""
    with RESOURCES.open(encoding="utf-8", newline="") as file:
        rows = [(row["file"], row["kernel"]) for row in csv.DictReader(file)]
    texts = {name: (RESOURCES.parent / "src" / name).read_text(encoding="utf-8") for name in {name for name, _ in rows}}
    kernels: dict[str, list[str]] = {text: [] for text in texts.values()}
    for name, expression in rows:
        kernels[texts[name]].append(expression)
    return kernels


def _companions(code: str, expression: str) -> tuple[str, ...]:
    """The kernels built together with one: some instances of the same template, for it is the source that takes long to read."""

    def alike(other: str) -> tuple[str, bool]:
        return other.partition("<")[0], "long long" in other

    listed = sorted(other for other in _instances().get(code, []) if alike(other) == alike(expression))
    if expression not in listed or _sanitizer() == "accesses":  # which needs few
        return (expression,)
    first = listed.index(expression) // TOGETHER * TOGETHER
    return tuple(listed[first : first + TOGETHER])


@functools.cache
def _build(code: str, expressions: tuple[str, ...], include: tuple[str, ...]) -> ctypes.CDLL:
    accesses() if _sanitizer() == "accesses" else _runtime()
    headers = [path for folder in include for path in sorted(Path(folder).glob("*.cuh"))]
    contraction = _contraction() if _sanitizer() == "thread" else ()
    flags = (
        *FLAGS,
        *SANITIZERS[_sanitizer()],
        *contraction,
        "-include",
        str(HERE / "cuda_host.h"),
        *(f"-I{folder}" for folder in include),
    )
    entries = "".join(_ENTRY.format(number=number, expression=expression) for number, expression in enumerate(expressions))
    # Without the namespace, shared memory of templates would be open to other libraries, and get no redzones.
    name = expressions[0].partition("<")[0]
    source = f'namespace {{\n#line 1 "{name}"\n{code}\n}}\n{_TRAILER}{entries}'
    return ctypes.CDLL(str(_compile(source, [HERE / "cuda_host.h", *headers], flags)))


def build(code: str, expression: str, include: tuple[str, ...] = ()) -> Any:
    """Builds one kernel, and others with it, and loads it.

    Args:
        code: The CUDA source.
        expression: The kernel, an instance of a template where it is one.
        include: Folders that the source includes from.

    Returns:
        The C function that launches the kernel.

    Raises:
        BuildError: g++ refused it.
    """
    return _entry("launch", code, expression, include)


def parameters(code: str, expression: str, include: tuple[str, ...] = ()) -> list[Type]:
    """The types of a kernel's parameters; see :func:`build`."""
    function = _entry("parameters", code, expression, include)
    function.restype = ctypes.POINTER(Type)
    return list(itertools.takewhile(lambda parameter: parameter.size or parameter.kind != b"\0", function()))


def _entry(what: str, code: str, expression: str, include: tuple[str, ...]) -> Any:
    together = _companions(code, expression)
    try:
        library = _build(code, together, include)
    except BuildError:
        together = (expression,)
        library = _build(code, together, include)
    return getattr(library, f"dcnn_{what}_{together.index(expression)}")
