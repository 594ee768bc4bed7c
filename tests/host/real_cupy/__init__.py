"""Runs a program with the real CuPy, on a device that isn't there.

    python -m tests.host.real_cupy tests/kernels -q             pytest, with its arguments
    python -m tests.host.real_cupy benchmarks/gpu_suite.py      a program, with its arguments

The stand-in for CuPy (``tests/host/cupy``) says what we think CuPy does. Here it is CuPy that packs arguments, keeps memory in
its pool, captures graphs, and has NVRTC compile every kernel, for compute capability 9.0. Only CUDA's runtime, driver and cuBLAS
beneath it are replaced in this process (``cuda.py``, ``cublas.py``), and what is launched is built by g++ and run at once
(``kernels.py``). There are two devices, and their memory is the host's.

Needs Linux on x86-64, g++, and ``pip install cupy-cuda13x nvidia-cuda-nvrtc==13.0.* nvidia-cuda-runtime==13.0.*``.
"""
