import os
import threading

import pytest

from dcnn_kernels.compiled import threads
from tests.kernels.device import host_only

# No thread of theirs touches a device, and ThreadSanitizer refuses threads after a fork.
pytestmark = host_only


@pytest.fixture(params=[1, 2, 3, 8])
def cores(request, monkeypatch):
    """As many cores, whatever the machine has, and no grain too small to be shared."""
    monkeypatch.setattr(threads, "cores", lambda: request.param)
    monkeypatch.setattr(threads, "GRAIN", 1)
    monkeypatch.setattr(threads, "PARTS", 1)
    return request.param


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_parts_cover_the_range_once(cores, count):
    done, lock = [], threading.Lock()

    def loop(first, last, word):
        with lock:
            done.append((first, last, word))

    threads.share(loop, count, 1, "word")
    assert len(done) == max(1, min(cores, count))
    assert [n for first, last, _ in sorted(done) for n in range(first, last)] == list(range(count))
    assert {word for *_, word in done} == {"word"}


def test_little_work_stays_in_the_calling_thread(monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 4)
    callers = []
    threads.share(lambda first, last: callers.append((first, last, threading.get_ident())), 10, threads.GRAIN // 100)
    assert callers == [(0, 10, threading.get_ident())]


@pytest.mark.parametrize("failing", [0, 5])
def test_an_error_in_any_part_is_raised_when_all_have_ended(failing, monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 2)
    monkeypatch.setattr(threads, "GRAIN", 1)
    monkeypatch.setattr(threads, "PARTS", 1)
    ended = []

    def loop(first, last):
        try:
            if first == failing:
                raise FloatingPointError("part")
        finally:
            ended.append(first)

    with pytest.raises(FloatingPointError, match="part"):
        threads.share(loop, 10, 1)
    assert sorted(ended) == [0, 5]


def test_threads_may_share_at_once(monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 2)
    monkeypatch.setattr(threads, "GRAIN", 1)
    monkeypatch.setattr(threads, "PARTS", 1)
    sums = [0] * 8

    def work(caller):
        def loop(first, last):
            parts.append(sum(range(first, last)))

        parts = []
        threads.share(loop, 1000, 1)
        sums[caller] = sum(parts)

    callers = [threading.Thread(target=work, args=(n,)) for n in range(len(sums))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sums == [sum(range(1000))] * len(sums)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_threads_of_its_own(monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 2)
    monkeypatch.setattr(threads, "GRAIN", 1)
    monkeypatch.setattr(threads, "PARTS", 1)
    parts = []
    threads.share(lambda first, last: parts.append(first), 10, 1)
    child = os.fork()
    if child == 0:
        threads.share(lambda first, last: parts.append(first), 10, 1)
        os._exit(0 if sorted(parts) == [0, 0, 5, 5] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
