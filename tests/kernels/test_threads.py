"""The team of threads that the compiled loops' parts go to."""

import os
import subprocess
import sys
import threading
import types

import numpy as np
import pytest

pytestmark = pytest.mark.compiled_only


@pytest.fixture(scope="module")
def loops():
    """Loops in which a thread can be seen at work."""
    from dcnn_kernels.compiled.team import parted

    @parted
    def count(first, last, times, step):
        for n in range(first, last):
            times[n] += step

    @parted
    def fill(first, last, memory, owners, size):
        # Whoever else wrote to this thread's memory meanwhile is found out.
        for n in range(first, last):
            for k in range(size):
                memory[k] = n
            total = 0.0
            for k in range(size):
                total += memory[k]
            owners[n] = total / size

    @parted
    def allocate(first, last, sizes, ended):
        for n in range(first, last):
            ended[n] = 1 + len(np.empty(sizes[n], np.uint8))

    return types.SimpleNamespace(count=count, fill=fill, allocate=allocate)


@pytest.fixture(params=[1, 2, 3, 8])
def threads(request, monkeypatch):
    """The module, with a team for as many cores, whatever the machine has, and no grain too small to be shared."""
    from dcnn_kernels.compiled import threads

    team = threads._Team(max(1, request.param - 1))
    monkeypatch.setattr(threads, "cores", lambda: request.param)
    monkeypatch.setattr(threads, "GRAIN", 1)
    monkeypatch.setattr(threads, "_team", team)
    yield threads
    team.end()


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100, 100_000])
def test_every_item_is_worked_on_once(threads, loops, count):
    times = np.zeros(count, np.int64)
    for _ in range(20):
        threads.share(loops.count, count, 1, times, 1)
    np.testing.assert_array_equal(times, 20)


def test_no_part_of_one_loop_is_taken_for_another(threads, loops):
    """Short loops follow one another as fast as they can, each with an array and a step of its own."""
    arrays = [np.zeros(size, np.int64) for size in (3, 64, 17, 1, 40)]
    for n in range(20_000):
        threads.share(loops.count, len(arrays[n % 5]), 1, arrays[n % 5], n)
    for first, array in enumerate(arrays):
        np.testing.assert_array_equal(array, sum(range(first, 20_000, 5)))


def test_each_thread_has_memory_of_its_own(threads, loops):
    owners = np.zeros(64)
    for size in (1, 1000, 50):
        threads.share(loops.fill, 64, 1, owners, size, room=(size, np.float64))
        np.testing.assert_array_equal(owners, np.arange(64))


def test_little_work_wakes_nobody(loops, monkeypatch):
    from dcnn_kernels.compiled import threads

    team = threads._Team(3)
    monkeypatch.setattr(threads, "_team", team)
    threads.share(loops.count, 10, threads.GRAIN // 10, np.zeros(10, np.int64), 1)
    assert team._threads == []


def test_a_part_without_memory_is_an_error_when_all_have_ended(threads, loops):
    sizes, ended = np.zeros(16, np.int64), np.zeros(16, np.int64)
    sizes[5] = 1 << 60
    with pytest.raises(MemoryError, match="the loop allocate ran out of memory"):
        threads.share(loops.allocate, 16, 1, sizes, ended)
    assert ended[5] == 0
    sizes[5] = 0
    threads.share(loops.allocate, 16, 1, sizes, ended)
    np.testing.assert_array_equal(ended, 1)


def test_threads_may_share_at_once(threads, loops):
    arrays = [np.zeros(1000 + n, np.int64) for n in range(8)]

    def work(times):
        for _ in range(200):
            threads.share(loops.count, len(times), 1, times, 1)

    callers = [threading.Thread(target=work, args=(times,)) for times in arrays]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for times in arrays:
        np.testing.assert_array_equal(times, 200)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_threads_of_its_own(threads, loops):
    times = np.zeros(1000, np.int64)
    threads.share(loops.count, 1000, 1, times, 1)
    child = os.fork()
    if child == 0:
        threads.share(loops.count, 1000, 1, times, 1)
        os._exit(0 if (times == 2).all() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("patience", [1 << 18, 0], ids=["awake", "asleep"])
def test_a_process_ends_whether_its_threads_sleep_or_not(patience):
    script = f"""
import numpy as np
import dcnn_kernels
from dcnn_kernels.compiled import threads
threads.GRAIN, threads.PATIENCE, threads.cores = 1, {patience}, lambda: 4
for _ in range(100):
    dcnn_kernels.relu_mask(np.ones((8, 64, 32, 32), np.float32))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
