"""The primitives on CUDA: launch code for CuPy arrays, one file a family, and the device code in ``src``."""
