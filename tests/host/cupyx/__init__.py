"""What Chainer imports of ``cupyx`` to be sure that CuPy is whole; nothing of it is called."""
