"""What a served machine has counted, in Prometheus' text format. The only file that imports prometheus_client.

Times are emulated seconds, unless a name says real.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from cluster.serve.contract import Machine, Status

STATES = ("starting", "ready", "stopping", "failed")
SPREADS = {"ttft": ("ttft", "Time to first token"), "tpot": ("tpot", "Time per output token of an answer"),
           "itl": ("itl", "Inter-token latency"), "end_to_end": ("end_to_end", "Arrival to last token"),
           "queueing": ("queueing", "Arrival to first step"), "step": ("step", "Steps of the machine"),
           "late": ("late_real", "How late tokens came at the wall clock, in real seconds")}
PHASES = ("hits", "misses", "loads", "loaded_bytes", "substituted", "dropped")


class Metrics:
    """The metrics of one machine and its HTTP front door. streams: tells how many answers are under way there."""

    def __init__(self, machine: "Machine", streams: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._answered: Counter[tuple[str, int]] = Counter()
        self._registry.register(_Told(machine, streams, self._answered))

    def answered(self, path: str, status: int) -> None:
        """One more answer."""
        self._answered[path, status] += 1

    def text(self, accept: str) -> tuple[bytes, str]:
        """All of it, and its content type, in the format that is asked for."""
        encode, kind = choose_encoder(accept)
        return encode(self._registry), kind


class _Told(Collector):
    """Asks the machine when it is asked itself."""

    def __init__(self, machine: "Machine", streams: Callable[[], int], answered: Counter[tuple[str, int]]) -> None:
        self._machine, self._streams, self._answered = machine, streams, answered

    def describe(self) -> list[Metric]:
        """Nothing: the machine is not asked before it is started."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every metric, as it is just now."""
        yield from _of_status(self._machine.status())
        yield GaugeMetricFamily("moelab_http_streams", "Answers under way over HTTP", self._streams())
        answers = CounterMetricFamily("moelab_http_responses", "Answers of the HTTP front door",
                                      labels=["path", "code"])
        for (path, code), count in sorted(self._answered.items()):
            answers.add_metric([path, str(code)], count)
        yield answers
        yield from _of_figures(self._machine.figures())


def _of_status(status: "Status") -> Iterator[Metric]:
    state = GaugeMetricFamily("moelab_machine_state", "1 for the state that the machine is in", labels=["state"])
    for name in STATES:
        state.add_metric([name], float(name == status.state))
    yield state
    yield CounterMetricFamily("moelab_emulated_seconds", "Time since the machine was switched on",
                              status.emulated_ps / 1e12)
    if status.dilation is not None:
        yield GaugeMetricFamily("moelab_dilation_ratio", "Real seconds for an emulated one", status.dilation)
    yield GaugeMetricFamily("moelab_requests_running", "Requests whose first step has begun", status.running)
    yield GaugeMetricFamily("moelab_requests_waiting", "Requests that wait for their first step", status.waiting)
    yield CounterMetricFamily("moelab_steps", "Steps of the machine", status.steps)
    yield GaugeMetricFamily("moelab_kv_blocks", "Blocks of the KV cache", status.kv_blocks)
    yield GaugeMetricFamily("moelab_kv_blocks_used", "Blocks of the KV cache in use", status.kv_blocks_used)
    yield GaugeMetricFamily("moelab_faults", "Faults that last", len(status.faults))


def _of_figures(figures: Mapping[str, Any]) -> Iterator[Metric]:
    yield _by("moelab_requests", "Requests: asked, refused, or ended by reason", "outcome", figures.get("requests"))
    yield _by("moelab_tokens", "Tokens: of prompts and answers, and as steps passed them", "kind",
              figures.get("tokens"))
    for key, (name, text) in SPREADS.items():
        if isinstance(spread := figures.get(key), Mapping):
            counts = list(accumulate(spread["buckets"]))
            bounds = [*(f"{bound:g}" for bound in figures["bounds_s"]), "+Inf"]
            yield HistogramMetricFamily(f"moelab_{name}_seconds", text, list(zip(bounds, counts, strict=True)),
                                        spread["sum_s"])
    phases = figures.get("phases") or {}
    for key in PHASES:
        unit = key if key.endswith("bytes") else f"experts_{key}"
        yield _by(f"moelab_{unit}", f"Experts by phase: {key.replace('_', ' ')}", "phase",
                  {phase: tally[key] for phase, tally in phases.items()})
    yield _by("moelab_prefetches", "Prefetches: issued, useful, late", "outcome", figures.get("prefetch"))
    yield _by("moelab_lane_busy_seconds", "Time that a lane was busy", "lane", figures.get("busy_s"))
    links = CounterMetricFamily("moelab_link_bytes", "Bytes over a link, by cause", labels=["link", "cause"])
    for link, causes in (figures.get("links") or {}).items():
        for cause, moved in causes.items():
            links.add_metric([link, cause], moved)
    yield links
    yield CounterMetricFamily("moelab_preemptions", "Requests that lost their KV cache and began again",
                              figures.get("preempted", 0))


def _by(name: str, text: str, label: str, values: Mapping[str, float] | None) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in (values or {}).items():
        family.add_metric([value], count)
    return family
