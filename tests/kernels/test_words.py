import numpy as np
import pytest

from dcnn_kernels.arrays import select_backend
from tests.kernels.device import BACKEND, to_device, to_host


def sums(words, shift):
    if BACKEND != "cuda":
        return select_backend("words", BACKEND, words=words).sum_words(words, shift)
    return tuple(map(to_host, select_backend("words", "cuda", words=to_device(words)).sum_words(to_device(words), shift)))


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (127, 8), (128, 8), (129, 70), (1000, 512)])
@pytest.mark.parametrize("shift", [1, 29, 63])
@pytest.mark.parametrize("aligned", [True, False])
def test_sums_are_those_of_whole_numbers(shape, shift, aligned):
    octets = np.random.default_rng(0).integers(0, 256, 8 * shape[0] * shape[1] + 4, np.uint8)
    words = octets[0 if aligned else 4 :][: 8 * shape[0] * shape[1]].view(np.uint64).reshape(shape)
    mixed = [[number ^ number >> shift for number in row] for row in words.tolist()]
    rows, columns = sums(words, shift)
    assert rows.tolist() == [sum(row) % 2**64 for row in mixed]
    assert columns.tolist() == [sum(column) % 2**64 for column in zip(*mixed, strict=True)]
