"""Every metric as data: its name, what it is, its unit, its labels with their bounds, and one meaning.

Names are those of a query. Units are base units; times are emulated seconds, unless a name says real. Every metric
carries the labels of `IDENTITY`, so that runs and policies stand side by side.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

IDENTITY = ("run", "policy")
OTHER = "other"
"""The value of a label under which everything beyond the label's bound is summed."""

BOUNDS = {"lane": 64, "link": 64, "device": 64, "cause": 32, "phase": 2, "kind": 8, "outcome": 8, "part": 8,
          "group": 8, "layer": 32, "expert": 32, "verdict": 2, "rank": 4, "path": 32, "code": 64, "state": 8, "of": 8,
          "source": 2, "machine": 1, "model": 1, "precision": 1, "transport": 1, "version": 1}
"""At most so many values of a label in one run and policy, before OTHER. layer, expert: as pairs."""

LONGEST_VALUE = 120
"""Characters of a label's value; a longer one is cut, and ends in a hash of the whole."""

BUCKETS_S = tuple(float(f"{digit}e{power}") for power in range(-6, 3) for digit in (1, 2, 5))
"""Upper bounds of the buckets of every histogram, in seconds; what lies above is in one more."""


def bucket(seconds: float) -> int:
    """The bucket that a duration falls in."""
    return bisect_left(BUCKETS_S, seconds)


@dataclass(frozen=True)
class Metric:
    """name: as it is queried. labels: beside IDENTITY. of: run (and a comparison, a Ray job), serve (a served machine),
    sweep."""

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    text: str
    of: tuple[str, ...] = ("run",)

    @property
    def family(self) -> str:
        """The name without the ending of a counter."""
        return self.name.removesuffix("_total")

    @property
    def most_series(self) -> int:
        """At most so many series for one run and policy."""
        most, labels = 1, [label for label in self.labels if label != "expert"]
        for label in labels:
            most *= BOUNDS[label] + 1
        return most * (len(BUCKETS_S) + 3 if self.kind == "histogram" else 1)


BOTH = ("run", "serve")
SERVE = ("serve",)

METRICS = (
    # what it is, and the time base
    Metric("moelab_run_info", "gauge", "", ("machine", "model", "precision", "transport", "version"),
           "Always 1: which machine, model, precision, transport and version of moelab", BOTH),
    Metric("moelab_emulated_seconds_total", "counter", "seconds", (),
           "Emulated time that has passed: what rates are divided by", BOTH),
    Metric("moelab_bound_seconds", "gauge", "seconds", (),
           "Proven lower bound of the run's time by any schedule on this machine"),
    Metric("moelab_dilation_ratio", "gauge", "ratio", (),
           "Seconds of the clock that Prometheus sees for an emulated one", BOTH),
    # requests and tokens
    Metric("moelab_steps_total", "counter", "", ("phase",), "Steps; with any prefill token one is a prefill step",
           BOTH),
    Metric("moelab_tokens_total", "counter", "", ("kind",),
           "Tokens: of prompts that came, of output that was emitted, and as prefill and decode steps passed them",
           BOTH),
    Metric("moelab_requests_total", "counter", "", ("outcome",),
           "Requests: asked, refused, or ended by length, stop or cancelled", BOTH),
    Metric("moelab_requests_running", "gauge", "", (), "Requests whose first step has begun and that are not over",
           BOTH),
    Metric("moelab_requests_waiting", "gauge", "", (), "Requests that came and wait for their first step", BOTH),
    Metric("moelab_preemptions_total", "counter", "", (), "Requests that lost their KV cache and began again", BOTH),
    Metric("moelab_ttft_seconds", "histogram", "seconds", (), "Time to first token, from a request's arrival", BOTH),
    Metric("moelab_tpot_seconds", "histogram", "seconds", (),
           "Time per output token of a request, behind its first", BOTH),
    Metric("moelab_itl_seconds", "histogram", "seconds", (), "Inter-token latency", BOTH),
    Metric("moelab_end_to_end_seconds", "histogram", "seconds", (),
           "From a request's arrival to its last token, of those that finished", BOTH),
    Metric("moelab_queueing_seconds", "histogram", "seconds", (), "From a request's arrival to its first step", BOTH),
    Metric("moelab_step_seconds", "histogram", "seconds", (), "A step's own time", BOTH),
    Metric("moelab_slo_met_ratio", "gauge", "ratio", ("of",),
           "Share of all requests that met the objective: its ttft, its tpot, or both"),
    # experts
    Metric("moelab_experts_hits_total", "counter", "", ("phase",),
           "Routed experts of a layer that a home held at the decision", BOTH),
    Metric("moelab_experts_misses_total", "counter", "", ("phase",),
           "Routed experts of a layer that no home held at the decision", BOTH),
    Metric("moelab_experts_loads_total", "counter", "", ("phase",), "Parts of experts that were loaded", BOTH),
    Metric("moelab_loaded_bytes_total", "counter", "bytes", ("phase",), "Bytes of the parts that were loaded", BOTH),
    Metric("moelab_experts_substituted_total", "counter", "", ("phase",),
           "Routed pairs that another expert served", BOTH),
    Metric("moelab_experts_dropped_total", "counter", "", ("phase",), "Routed pairs that nobody served", BOTH),
    Metric("moelab_prefetches_total", "counter", "", ("outcome",),
           "Prefetches: issued; useful were used; late of those came after the decision; wasted were never used", BOTH),
    Metric("moelab_expert_load_tokens_total", "counter", "", ("group",),
           "Tokens routed to the experts of a group of MoE layers", BOTH),
    Metric("moelab_top_expert_tokens_total", "counter", "", ("layer", "expert"),
           "Tokens routed to the experts with the most of them", BOTH),
    Metric("moelab_load_skew_ratio", "gauge", "ratio", ("group",),
           "Load of the fullest expert of a layer over its mean, averaged over a group of layers", BOTH),
    # the machine
    Metric("moelab_link_bytes_total", "counter", "bytes", ("link", "cause"), "Bytes over a link, by cause", BOTH),
    Metric("moelab_lane_busy_seconds_total", "counter", "seconds", ("lane",),
           "Time that a lane's servers worked, summed", BOTH),
    Metric("moelab_lane_stall_seconds_total", "counter", "seconds", ("lane", "cause"),
           "Time that a lane's servers waited, by what they waited for"),
    Metric("moelab_lane_servers", "gauge", "", ("lane",), "Servers of a lane: what its busy time is a share of", BOTH),
    Metric("moelab_critical_path_seconds_total", "counter", "seconds", ("phase", "cause"),
           "Steps' time by what the critical path spent it on"),
    Metric("moelab_memory_bytes", "gauge", "bytes", ("device", "part"), "Memory in use: of experts and of KV caches"),
    Metric("moelab_memory_peak_bytes", "gauge", "bytes", ("device", "part"),
           "The most memory so far: experts, dense weights, KV caches, and activations beside them"),
    Metric("moelab_memory_capacity_bytes", "gauge", "bytes", ("device",), "Memory of a device", BOTH),
    Metric("moelab_kv_blocks", "gauge", "", (), "Blocks of the KV cache", BOTH),
    Metric("moelab_kv_blocks_used", "gauge", "", (), "Blocks of the KV cache in use", BOTH),
    Metric("moelab_energy_joules_total", "counter", "joules", ("device",),
           "Energy of a device, where the hardware file tells it; links are under their own names"),
    # faults
    Metric("moelab_faults", "gauge", "", (), "Faults that last", BOTH),
    Metric("moelab_faults_taken_total", "counter", "", ("kind",), "Faults that took effect"),
    Metric("moelab_fault_recovery_seconds_total", "counter", "seconds", ("kind",),
           "Time until steps could go on behind faults"),
    Metric("moelab_fault_bytes_total", "counter", "bytes", ("source",),
           "Bytes of experts that faults made necessary: sent over links, read from storage"),
    # how it is carried out
    Metric("moelab_restarts_total", "counter", "", (), "Actors or worker processes that were started again"),
    Metric("moelab_actors", "gauge", "", (), "Actors or worker processes that stand for devices"),
    Metric("moelab_nodes", "gauge", "", (), "Hosts that they are on, of a Ray cluster"),
    Metric("moelab_checkpoints_unpacked", "gauge", "", (), "Hosts on which a checkpoint that was shipped was unpacked"),
    Metric("moelab_lag_seconds", "gauge", "seconds", ("rank",),
           "Real seconds that operations ended behind their deadlines at the wall clock, by rank"),
    Metric("moelab_wall_verdict", "gauge", "", ("verdict",), "1 for what is said of a run at the wall clock"),
    Metric("moelab_wall_error_ratio", "gauge", "ratio", (),
           "Real time of a run at the wall clock over dilated emulated time, less one"),
    Metric("moelab_wall_late_operations_total", "counter", "", (),
           "Operations that ended late at the wall clock by more than is allowed"),
    Metric("moelab_done_ratio", "gauge", "ratio", (), "How far the run is: 1 when it is over"),
    Metric("moelab_sweep_points", "gauge", "", ("state",), "Points of a sweep: total, done, failed", ("sweep",)),
    # a served machine
    Metric("moelab_machine_state", "gauge", "", ("state",), "1 for the state that the machine is in", SERVE),
    Metric("moelab_late_real_seconds", "histogram", "seconds", (),
           "How late tokens came at the wall clock, in real seconds", SERVE),
    Metric("moelab_http_streams", "gauge", "", (), "Answers under way over HTTP", SERVE),
    Metric("moelab_http_responses_total", "counter", "", ("path", "code"), "Answers of the HTTP front door", SERVE),
)

BY_NAME = {metric.name: metric for metric in METRICS}


def table() -> str:
    """The catalogue as docs/metrics.md has it."""
    lines = ["| metric | kind | labels beside run and policy | what it tells | of |", "|---|---|---|---|---|"]
    lines += [f"| `{metric.name}` | {metric.kind} | {', '.join(metric.labels)} | {metric.text} | "
              f"{', '.join(metric.of)} |" for metric in METRICS]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
