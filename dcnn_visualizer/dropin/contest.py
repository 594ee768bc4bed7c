"""Which of several engines answers: the one that takes least time, once all have had their turns."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable

#: How often each engine is tried before the fastest is taken; but no more than twice, since compilation may take part of the
#: first time, if that took longer than the fastest by this factor.
TRIALS, HOPELESS = 3, 1.25
#: Latest times that count.
KEPT = 8


class Contest:
    """Times that engines took for one kind of work, of which the least counts: whatever disturbs a call makes it longer."""

    def __init__(self) -> None:
        self._times: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=KEPT))

    def note(self, engine: str, seconds: float) -> None:
        """Notes what an engine took."""
        self._times[engine].append(seconds)

    def to_try(self, engines: Iterable[str]) -> list[str]:
        """Engines that are to have further turns.

        Each has its turns in a row: the one before leaves threads behind that still wait for work, and its own data in the cache.
        """
        every = list(engines)
        hopeless = HOPELESS * min(map(self._time, every))
        return [one for one in every if len(self._times[one]) < (2 if self._time(one) > hopeless else TRIALS)]

    def next(self, engines: Iterable[str]) -> str:
        """The engine that is to do the work now."""
        every = list(engines)
        trying = self.to_try(every)
        return trying[0] if trying else min(every, key=self._time)

    def _time(self, engine: str) -> float:
        return min(self._times[engine], default=math.inf)
