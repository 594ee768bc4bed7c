"""See ``tests.host.real_cupy``."""

import os
import runpy
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[3]
HOST = str(ROOT / "tests" / "host")


def main():
    os.environ.setdefault("DCNN_TEST_BACKEND", "cuda")
    os.environ["CUPY_ACCELERATORS"] = ""  # which would bring kernels that are compiled already
    sys.path[:] = [str(ROOT), str(ROOT / "kernels"), *(path for path in sys.path if path != HOST)]
    from tests.host.real_cupy import cublas, cuda, kernels

    cuda.install()
    cublas.install()
    kernels.install()
    program, *arguments = sys.argv[1:]
    if program.endswith(".py") and "test_" not in program:
        sys.argv = [program, *arguments]
        try:
            runpy.run_path(program, run_name="__main__")
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
            status = 1
    else:
        import pytest

        status = int(pytest.main(["-p", "no:cacheprovider", program, *arguments]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # CUDA is asked to the last, when Python is gone already


if __name__ == "__main__":
    main()
