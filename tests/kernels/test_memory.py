"""Memory of results that is taken again."""

import threading

import numpy as np
import pytest

pytestmark = pytest.mark.compiled_only
SHAPE = (3, 300, 301)


@pytest.fixture
def memory(monkeypatch):
    from dcnn_kernels.compiled import memory

    monkeypatch.setattr(memory, "_free", {})
    return memory


@pytest.mark.parametrize(
    ("shape", "dtype"), [(SHAPE, np.float32), ((700, 200), np.float64), ((5, 0, 3), np.float32), ((), np.int32)]
)
def test_results_are_arrays_of_their_own(shape, dtype, memory):
    made = [memory.empty(shape, dtype) for _ in range(3)]
    for number, array in enumerate(made):
        array[...] = number
    for number, array in enumerate(made):
        assert (array.shape, array.dtype) == (shape, dtype)
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert (array == number).all()
        assert array.nbytes < memory.LEAST or array.ctypes.data % memory.LINE == 0


def test_memory_is_taken_again_when_the_last_view_is_gone(memory):
    array = memory.empty(SHAPE, np.float32)
    place, view = array.ctypes.data, array[1:].reshape(-1)[::2]
    del array
    assert memory.empty(SHAPE, np.float32).ctypes.data != place
    held = memory.empty(SHAPE, np.float32)
    view[:] = 1
    held[...] = 2
    assert (view == 1).all()
    del view
    others = [memory.empty(SHAPE, np.float32) for _ in range(3)]
    assert place in [other.ctypes.data for other in others]


def test_only_memory_of_about_the_size_is_taken(memory):
    large = memory.empty((4 << 20,), np.uint8)
    place = large.ctypes.data
    del large
    assert memory.empty((2 << 20,), np.uint8).ctypes.data != place
    assert memory.empty(((4 << 20) - 1000,), np.uint8).ctypes.data == place


def test_what_is_kept_has_a_limit(memory, monkeypatch):
    monkeypatch.setattr(memory, "MOST", 5 << 20)
    made = [memory.empty((size << 20,), np.uint8) for size in (1, 2, 3, 4)]
    while made:
        del made[0]
        assert sum(map(len, memory._free.values())) <= memory.MOST
    assert memory._free


def test_threads_never_share_a_result(memory):
    faults = []

    def work(number):
        for _ in range(200):
            array = memory.empty((1 << 20,), np.uint8)
            array[:: 1 << 12] = number
            if (array[:: 1 << 12] != number).any():
                faults.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
