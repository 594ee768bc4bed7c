"""One team of threads for all compiled loops: the cores take the planes, part by part."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from . import team

#: Values to work on that are worth another thread's looking at.
GRAIN = 1 << 13
#: Parts for each core: a core that others use too takes fewer, such as that on which NumPy's BLAS waits for its next product.
PARTS = 4
#: How often a thread looks for more to do before it sleeps: some 500 microseconds. Between a network's layers there are less,
#: and to wake a thread takes 50, or more than a layer does where an idle core is left to other virtual machines.
PATIENCE = 1 << 14
#: Bytes that the rows of several threads' memory are multiples of: a line of cache.
LINE = 64

#: Bytes of memory that a thread keeps for the loops it runs, at most, for each of two uses.
KEPT = 64 << 20

_own = threading.local()
_core_of_caller = getattr(ctypes.CDLL(None), "sched_getcpu", None) if sys.platform == "linux" else None


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(loop: Callable[..., Any], count: int, size: int, *arguments: Any, room: tuple[int, Any] | None = None) -> None:
    """Runs ``loop(first, last, *arguments)`` for parts of ``range(count)``, all at once.

    The calling thread takes parts too, and waits for the others. Loops share nothing else, and never share in turn.

    Args:
        loop: What :func:`parted <.team.parted>` has made of a loop.
        count: Number of items, such as planes.
        size: Values to work on for each item.
        *arguments: What all parts are given.
        room: Least size, and dtype, of the memory that each thread is given besides, before the others, as it was left.

    Raises:
        MemoryError: A part ran out of memory, the only error that loops know.
    """
    parts = max(1, min(PARTS * cores(), count, count * size // GRAIN, team.MOST))
    if room is not None:
        arguments = (_memories(_team.members + 1 if parts > 1 else 1, *room), *arguments)
    if parts > 1 and _team.caller.acquire(blocking=False):
        try:
            _team.wake(min(parts, cores()) - 1)
            _run(loop, _team.state, count, parts, arguments)
        finally:
            _team.caller.release()
    else:
        _run(loop, _state(), count, 1, arguments)


def _run(loop: Callable[..., Any], state: npt.NDArray[np.int64], count: int, parts: int, arguments: tuple[Any, ...]) -> None:
    loop(state, count, parts, *arguments)
    if state[team.FAILED]:
        state[team.FAILED] = 0
        raise MemoryError(f"a part of the loop {getattr(loop, '__name__', loop)} ran out of memory")


def _state() -> npt.NDArray[np.int64]:
    """That of a team of the calling thread alone."""
    if not hasattr(_own, "state"):
        _own.state = team.state()
    state: npt.NDArray[np.int64] = _own.state
    return state


def kept(size: int, dtype: Any) -> npt.NDArray[Any]:
    """Memory for what a loop leaves to the next, as it was left: fresh memory costs more than to write there.

    Args:
        size: Values.
        dtype: Of the values.
    """
    return _memory("between", size * np.dtype(dtype).itemsize).view(dtype)


def _memories(rows: int, size: int, dtype: Any) -> npt.NDArray[Any]:
    """Memory for a loop that the calling thread runs, a row for each thread."""
    width = -(-size * np.dtype(dtype).itemsize // LINE) * LINE
    memories: npt.NDArray[Any] = _memory("within", rows * width).view(dtype).reshape(rows, -1)
    return memories


def _memory(name: str, size: int) -> npt.NDArray[np.uint8]:
    """So many bytes of the calling thread's own."""
    memory: npt.NDArray[np.uint8] | None = getattr(_own, name, None)
    if memory is None or memory.nbytes < size:
        memory = np.empty(size, np.uint8)
        if size <= KEPT:
            setattr(_own, name, memory)
    return memory[:size]


class _Team:
    """The threads that help whoever shares a loop: one loop at a time, and one thread for each core but the caller's.

    Args:
        members: How many threads may help.

    Attributes:
        state: What its threads have in common.
        caller: Held by the thread whose loop it is.
        members: As given.
    """

    def __init__(self, members: int) -> None:
        self.state = team.state()
        self.caller = threading.Lock()
        self.members = members
        self._threads: list[threading.Thread] = []
        self._asleep: list[bool] = []
        self._bells: list[threading.Lock] = []
        self._made_way = (-1, 0)
        self._ended = False

    def wake(self, count: int) -> None:
        """Wakes the first of its threads, or makes them."""
        while len(self._threads) < min(count, self.members):
            self._asleep.append(False)
            self._bells.append(threading.Lock())
            self._bells[-1].acquire()
            name, number = f"dcnn_kernels {len(self._threads) + 1}", len(self._threads)
            self._threads.append(threading.Thread(target=self._serve, args=(number,), name=name, daemon=True))
            self._threads[-1].start()
        self._make_way()
        for number in range(min(count, self.members)):
            if self._asleep[number]:
                self._asleep[number] = False
                self._bells[number].release()

    def end(self) -> None:
        """Lets its threads go."""
        self._ended = True
        with self.caller:
            for number, asleep in enumerate(self._asleep):
                if asleep:
                    self._asleep[number] = False
                    self._bells[number].release()
        for thread in self._threads:
            thread.join()

    def _serve(self, number: int) -> None:
        while not self._ended:
            team.serve(self.state, number + 1, PATIENCE)
            # A loop that comes between the two is the caller's alone.
            self._asleep[number] = True
            if not self._ended:
                self._bells[number].acquire()

    def _make_way(self) -> None:
        """Keeps its threads off the caller's core.

        Linux tends to wake a thread on the core where it ran last, or on that of its waker. Once both ran there, as while BLAS
        kept the other core busy, they stay there, one after the other.
        """
        if _core_of_caller is None or (here := (_core_of_caller(), len(self._threads))) == self._made_way:
            return
        self._made_way = here
        if others := os.sched_getaffinity(0) - {here[0]}:
            for thread in self._threads:
                with contextlib.suppress(OSError):  # the thread has ended, or the system forbids it
                    os.sched_setaffinity(thread.native_id or 0, others)


def _forget() -> None:
    """The child of a fork has none of its parent's threads."""
    global _team
    _team = _Team(_team.members)


_team = _Team(max(1, cores() - 1))
atexit.register(lambda: _team.end())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
