"""The machine's clock against this host's: what time it is on the emulated machine, and how long until an instant."""

import math
import time

from cluster.serve.contract import Ask
from cluster.serve.driver import Driver
from emulation.units import PS_PER_S

MARGIN = 1.5
"""How much slower than it was measured to be a host may become before it is late."""
REHEARSED = ((1, 16, 6), (8, 32, 6))
"""Requests, tokens in and tokens out of each batch of a rehearsal: a small step is all overhead, a large one all work.
"""


class Pace:
    """Emulated time times the dilation is real time; without a dilation the clock is virtual."""

    def __init__(self, dilation: float | None) -> None:
        self.dilation = dilation
        self._zero_s = time.perf_counter()

    def emulated_ps(self, real_s: float) -> int:
        """What time the emulated machine should show at a reading of time.perf_counter()."""
        assert self.dilation is not None
        return max(0, int((real_s - self._zero_s) / self.dilation * PS_PER_S))

    def due_s(self, emulated_ps: int) -> float:
        """The reading of time.perf_counter() at which an emulated instant comes."""
        assert self.dilation is not None
        return self._zero_s + emulated_ps / PS_PER_S * self.dilation


def rehearse(driver: Driver, most_prompt: int, most_tokens: int) -> float:
    """A dilation that this host manages, measured by a few steps of a machine that is thrown away afterwards."""
    worst = 0.0
    for requests, prompt, output in REHEARSED:
        ask = Ask(tuple([1] * min(prompt, most_prompt)), min(output, most_tokens))
        names = [driver.add(driver.now_ps, ask) for _ in range(min(requests, driver.serving.max_batch))]
        spent: list[float] = []
        while (found := driver.next()) is not None:
            began_s = time.perf_counter()
            times = driver.perform(*found).times
            emulated_s = max(times.end_ps - times.begin_ps, 1) / PS_PER_S
            spent.append((time.perf_counter() - began_s) / emulated_s)
        for name in names:
            driver.drop(name)
        worst = max(worst, *spent[1:]) if len(spent) > 1 else max(worst, *spent)
    return rounded_up(worst * MARGIN)


def rounded_up(value: float) -> float:
    """To two digits, upwards."""
    if value <= 0:
        return 1.0
    unit: float = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit
