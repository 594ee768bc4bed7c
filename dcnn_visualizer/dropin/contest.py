"""Which of several engines answers: the one that took least time so far, once all have had their turns."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable

#: How often each engine is tried, in turn, before the fastest is taken; but no more than twice, since compilation may take part
#: of the first time, if that took longer than the fastest by this factor.
TRIALS, HOPELESS = 4, 1.25
#: Latest times that count.
KEPT = 8


class Contest:
    """Times that engines took for one kind of work, of which medians count: threads of others may have waited for the cores."""

    def __init__(self) -> None:
        self._times: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=KEPT))

    def note(self, engine: str, seconds: float) -> None:
        """Notes what an engine took."""
        self._times[engine].append(seconds)

    def to_try(self, engines: Iterable[str]) -> list[str]:
        """Engines that are to have another turn, those with the fewest first."""
        tried = [one for one in engines if self._times[one]]
        hopeless = HOPELESS * min(map(self._time, tried), default=math.inf)
        trying = [
            one for one in engines if len(self._times[one]) < (2 if one in tried and self._time(one) > hopeless else TRIALS)
        ]
        return sorted(trying, key=lambda one: len(self._times[one]))

    def next(self, engines: Iterable[str]) -> str:
        """The engine that is to do the work now."""
        trying = self.to_try(engines)
        return trying[0] if trying else min(engines, key=self._time)

    def _time(self, engine: str) -> float:
        times = self._times[engine]
        return sorted(times)[(len(times) - 1) // 2]
