"""What tests of several files set up."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """Threads of PyTorch's and of NumPy's in turn wait for each other longer than small networks take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
