"""C functions written in Python, and where to put them: in the place of those of a library, loaded or not."""

import ctypes
import re
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

#: What a function is called by the library, and its address.
Addresses = dict[str, int]
_kept = []


class Table:
    """Functions of a library. Each returns a status: None is 0; what they raise is printed and becomes ``failure``."""

    def __init__(self, failure):
        self.failure, self.addresses = failure, {}

    def call(self, *types):
        """Adds a function of these arguments by its own name."""

        def add(function):
            def guarded(*args):
                try:
                    return function(*args) or 0
                except BaseException:
                    traceback.print_exc()
                    return self.failure

            self.put(function.__name__, ctypes.CFUNCTYPE(ctypes.c_int, *types)(guarded))
            return function

        return add

    def put(self, name, function):
        """Adds a ctypes function."""
        _kept.append(function)
        self.addresses[name] = ctypes.cast(function, ctypes.c_void_p).value

    def address(self, name):
        """Of a function; of one that isn't there, of one that says so."""
        if name not in self.addresses:

            def missing():
                print(f"{name} is not replaced", file=sys.stderr)
                return self.failure

            self.put(name, ctypes.CFUNCTYPE(ctypes.c_int)(missing))
        return self.addresses[name]

    def replace(self, library, pattern):
        """Lets the functions inside a loaded library, as its symbols name them, jump to these."""
        with open("/proc/self/maps", encoding="ascii") as maps:
            base = next(int(line.split("-")[0], 16) for line in maps if library in line)
        symbols = subprocess.run(["nm", library], capture_output=True, text=True, check=True).stdout
        protect = ctypes.CDLL(None).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for offset, name in re.findall(rf"^(\w+) t ({pattern})$", symbols, re.MULTILINE):
            place = base + int(offset, 16)
            if protect(place & ~4095, 8192, 7):
                raise OSError("code can't be changed here")
            ctypes.memmove(place, b"\x48\xb8" + self.address(name).to_bytes(8, "little") + b"\xff\xe0", 12)  # mov rax; jmp rax

    def load(self, soname, names):
        """Loads a library of that name, all of whose functions are these."""
        jumps = "".join(
            f'__attribute__((naked)) void {name}(void) {{ __asm__("jmp *table+{8 * number}(%rip)"); }}\n'
            for number, name in enumerate(names)
        )
        with tempfile.TemporaryDirectory() as folder:
            source, versions, built = (Path(folder) / name for name in ("table.c", "table.map", soname))
            source.write_text(f"void* table[{len(names) or 1}];\n{jumps}", encoding="ascii")
            versions.write_text(f"{soname} {{ global: *; }};\n", encoding="ascii")
            options = ["-shared", "-fPIC", "-Wl,-Bsymbolic", f"-Wl,-soname,{soname}", f"-Wl,--version-script={versions}"]
            subprocess.run(["gcc", *options, "-o", str(built), str(source)], check=True)
            library = ctypes.CDLL(str(built), mode=ctypes.RTLD_GLOBAL)
        _kept.append(library)
        table = (ctypes.c_void_p * len(names)).in_dll(library, "table")
        for number, name in enumerate(names):
            table[number] = self.address(name)


def write(pointer, kind, value):
    """Writes a number where a pointer says."""
    ctypes.cast(pointer, ctypes.POINTER(kind))[0] = value
