"""Compare: run A beside run B, and B over A."""

from collections.abc import Callable

from deploy.grafana.source import queries as q
from deploy.grafana.source.boards import one
from deploy.grafana.source.panels import Board, Panel, Query, Row

A, B = 'run="$run_a", policy="$policy_a"', 'run="$run_b", policy="$policy_b"'
VARIABLES = (one("run_a", "Run A", "run"), one("policy_a", "Policy A", "policy", 'run="$run_a"'),
             one("run_b", "Run B", "run"), one("policy_b", "Policy B", "policy", 'run="$run_b"'))
MOVED, BUSY = "moelab_link_bytes_total", "moelab_lane_busy_seconds_total"
WORSE = ((1.05, "yellow"), (1.2, "orange"))
"""Where B takes longer, or needs more, than A by so much. Colours only: no verdict hangs on them."""


def _alone(ask: Callable[[str], str]) -> str:
    """B over A, without labels: the two need not have any in common."""
    return f"sum({ask(B)}) / (sum({ask(A)}) > 0)"


def _throughput(chosen: str) -> str:
    return q.total_per_emulated_second("moelab_tokens_total", where='kind="output"', chosen=chosen)


def _hit_ratio(chosen: str) -> str:
    hits = q.total("moelab_experts_hits_total", chosen=chosen)
    return q.over(hits, f"{hits} + {q.total('moelab_experts_misses_total', chosen=chosen)}")


def _mean(histogram: str) -> Callable[[str], str]:
    return lambda chosen: q.total_mean(histogram, chosen=chosen)


def _bytes(chosen: str) -> str:
    return q.total(MOVED, chosen=chosen)


def _time(chosen: str) -> str:
    return q.total(q.EMULATED, chosen=chosen)


def _bound(chosen: str) -> str:
    return q.over(_time(chosen), q.level("moelab_bound_seconds", chosen=chosen))


def _both(ask: Callable[[str], str], of: str = "") -> tuple[Query, Query]:
    """The same of A and of B. of: a further label in the legend."""
    name = "{{run}} {{policy}}" + (f" {{{{{of}}}}}" if of else "")
    return Query(ask(A), f"A: {name}"), Query(ask(B), f"B: {name}")


def _ratio(title: str, ask: Callable[[str], str], says: str, worse: bool = True) -> Panel:
    return Panel("stat", f"B over A: {title}", says, "none", (Query(_alone(ask), "B / A"),), width=4, height=4,
                 steps=WORSE if worse else ())


def _totals(title: str, ask: Callable[[str], str], unit: str, says: str) -> Panel:
    return Panel("bars", title, says, unit, _both(ask), width=8, height=5)


RATIOS = Row("B over A, since the runs began", (
    _ratio("tokens per emulated second", _throughput, "Above 1 B is faster.", worse=False),
    _ratio("TTFT", _mean("moelab_ttft_seconds"), "Of the means; below 1 B is faster."),
    _ratio("TPOT", _mean("moelab_tpot_seconds"), "Of the means; below 1 B is faster."),
    _ratio("emulated time", _time, "Of all of it: means something where both do the same work."),
    _ratio("bytes over links", _bytes, "Of all links and causes."),
    _ratio("hit ratio", _hit_ratio, "Above 1 B holds more of what is asked for.", worse=False)))

SIDES = Row("Side by side, since the runs began", (
    _totals("Output tokens per emulated second", _throughput, "none", "Tokens emitted over emulated time."),
    _totals("TTFT, mean", _mean("moelab_ttft_seconds"), "s", "In emulated seconds."),
    _totals("TPOT, mean", _mean("moelab_tpot_seconds"), "s", "In emulated seconds."),
    _totals("Times the bound", _bound, "none", "Each over its own machine's bound; runs only."),
    _totals("Hit ratio", _hit_ratio, "percentunit", "Routed experts that a home held at the decision."),
    _totals("Bytes over links", _bytes, "bytes", "Of all links and causes.")))

TIME = Row("Over time", (
    Panel("series", "Output tokens per emulated second", "Each over its own emulated time.", "none",
          _both(lambda chosen: q.per_emulated_second("moelab_tokens_total", where='kind="output"', chosen=chosen))),
    Panel("series", "Step, mean", "A step's own time in emulated seconds.", "s",
          _both(lambda chosen: q.mean("moelab_step_seconds", chosen=chosen))),
    Panel("series", "Bytes over links by cause", "Per emulated second.", "Bps",
          _both(lambda chosen: q.per_emulated_second(MOVED, "cause", chosen=chosen), "cause")),
    Panel("series", "Lane busy time", "Busy seconds of a lane's servers per emulated second.", "none",
          _both(lambda chosen: q.per_emulated_second(BUSY, "lane", chosen=chosen), "lane"))))

BOARD = Board("moelab-compare", "moelab: compare two runs", "Run A beside run B: choose both above.",
              (RATIOS, SIDES, TIME), VARIABLES)
