"""Builds .cu sources with g++ for the CPU, kernel by kernel, into shared libraries kept by the digest of what made them.

``DCNN_HOST_SANITIZER`` chooses the build: ``address`` (AddressSanitizer and UndefinedBehaviorSanitizer), ``thread``
(ThreadSanitizer), or ``none``. A sanitizer must be loaded before Python is: see :func:`environment`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "host"

FLAGS = ("-std=c++17", "-O1", "-g1", "-fPIC", "-shared", "-w", "-ffp-contract=off", "-fno-gnu-unique", "-fno-strict-aliasing")
SANITIZERS = {
    "none": (),
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-fsanitize=thread",),
}


class BuildError(RuntimeError):
    """g++ refused the source."""


def compiler() -> str | None:
    """Path of g++, or None where there is none."""
    return shutil.which("g++")


def environment(sanitizer: str) -> dict[str, str]:
    """Environment variables under which a Python process can load what is built with a sanitizer."""
    variables = {"DCNN_HOST_SANITIZER": sanitizer}
    if sanitizer != "none":
        library = {"address": "libasan.so", "thread": "libtsan.so"}[sanitizer]
        variables["LD_PRELOAD"] = _run([str(compiler()), f"-print-file-name={library}"]).strip()
        # Python keeps what it allocated until the end; libraries share names on purpose.
        variables["ASAN_OPTIONS"] = "detect_leaks=0:detect_odr_violation=0"
        variables["UBSAN_OPTIONS"] = "print_stacktrace=1"
        variables["TSAN_OPTIONS"] = "halt_on_error=1:exitcode=66"
    return variables


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


#: After the kernels: the function that launches one. All that its library keeps in .bss is shared memory.
_TRAILER = """
extern "C" __attribute__((visibility("hidden"))) char __bss_start[], _end[];
extern "C" int dcnn_launch(const dcnn_host::Launch* launch, char* message, size_t message_size) {
    return dcnn_host::Entry<&EXPRESSION>::launch(*launch, __bss_start, _end, message, message_size);
}
"""


@functools.cache
def build(code: str, expression: str, include: tuple[str, ...] = ()) -> ctypes.CDLL:
    """Builds one kernel and loads it.

    Args:
        code: The CUDA source.
        expression: The kernel, an instance of a template where it is one.
        include: Folders that the source includes from.

    Returns:
        A library whose ``dcnn_launch`` launches the kernel.

    Raises:
        BuildError: g++ refused it.
    """
    _runtime()
    headers = [path for folder in include for path in sorted(Path(folder).glob("*.cuh"))]
    flags = (*FLAGS, *SANITIZERS[_sanitizer()], "-include", str(HERE / "cuda_host.h"), *(f"-I{folder}" for folder in include))
    # Without the namespace, shared memory of templates would be open to other libraries, and get no redzones.
    source = f'namespace {{\n#line 1 "{expression}"\n{code}\n}}\n{_TRAILER.replace("EXPRESSION", expression)}'
    return ctypes.CDLL(str(_compile(source, [HERE / "cuda_host.h", *headers], flags)))
