"""Overview: how fast, how far from the bound, what the requests see."""

from deploy.grafana.source import queries as q
from deploy.grafana.source.panels import Board, Panel, Query, Row

OUTPUT = 'kind="output"'
ANSWERED = 'outcome=~"stop|length"'
BY_KIND = "{{run}} {{policy}} {{kind}}"
BUCKETS = "Percentiles come from buckets (1, 2, 5 of each decade) and are known to the width of one; the mean is exact."

TOTALS = Row("Since the run began", (
    Panel("stat", "Output tokens per emulated second", "Tokens emitted, over the emulated time that has passed.",
          "none", (Query(q.total_per_emulated_second("moelab_tokens_total", where=OUTPUT)),), width=4, height=5),
    Panel("stat", "TTFT, mean", "Time to first token from a request's arrival, in emulated seconds.", "s",
          (Query(q.total_mean("moelab_ttft_seconds")),), width=4, height=5),
    Panel("stat", "TPOT, mean", "Time per output token of a request behind its first, in emulated seconds.", "s",
          (Query(q.total_mean("moelab_tpot_seconds")),), width=4, height=5),
    Panel("stat", "Times the bound", "Emulated time over the proven lower bound of any schedule on this machine: 1 is"
          " the best that there is. A served machine has no bound.", "none",
          (Query(q.over(q.total(q.EMULATED), q.level("moelab_bound_seconds"))),), width=4, height=5,
          steps=((1.5, "yellow"), (3, "orange"))),
    Panel("stat", "Requests answered", "Requests that ended with an end token, a stop text or their limit.", "none",
          (Query(q.total("moelab_requests_total", where=ANSWERED)),), width=4, height=5),
    Panel("stat", "Emulated time", "How much time has passed on the emulated machine: what all rates are divided by.",
          "s", (Query(q.total(q.EMULATED)),), width=4, height=5),
    Panel("table", "Runs", "Which machine, model, precision, transport and version each run is.", "none",
          (Query(q.level("moelab_run_info", "machine", "model", "precision", "transport", "version")),),
          width=24, height=5)))

THROUGHPUT = Row("Throughput, per emulated second", (
    Panel("series", "Tokens per emulated second", "Tokens of prompts that came, of output that was emitted, and as"
          " prefill and decode steps passed them.", "none",
          (Query(q.per_emulated_second("moelab_tokens_total", "kind"), BY_KIND),)),
    Panel("series", "Requests per emulated second", "Requests by how they ended; asked: those that came.", "none",
          (Query(q.per_emulated_second("moelab_requests_total", "outcome"), "{{run}} {{policy}} {{outcome}}"),)),
    Panel("series", "Steps per emulated second", "A step with any prefill token is a prefill step.", "none",
          (Query(q.per_emulated_second("moelab_steps_total", "phase"), "{{run}} {{policy}} {{phase}}"),)),
    Panel("series", "Requests running and waiting", "Waiting: came, and no step has computed any of it.", "none",
          (Query(q.gauge("moelab_requests_running"), "{{run}} {{policy}} running"),
           Query(q.gauge("moelab_requests_waiting"), "{{run}} {{policy}} waiting")))))


def _latency(title: str, histogram: str, says: str) -> Panel:
    return Panel("series", title, f"{says} {BUCKETS}", "s",
                 (Query(q.mean(histogram), "{{run}} {{policy}} mean"),
                  Query(q.quantile(0.5, histogram), "{{run}} {{policy}} P50"),
                  Query(q.quantile(0.99, histogram), "{{run}} {{policy}} P99")))


LATENCY = Row("Latency, in emulated seconds", (
    _latency("TTFT", "moelab_ttft_seconds", "Time to first token, from a request's arrival."),
    _latency("TPOT", "moelab_tpot_seconds", "Time per output token of a request, behind its first."),
    _latency("ITL", "moelab_itl_seconds", "Inter-token latency: from each token to the next."),
    _latency("End to end", "moelab_end_to_end_seconds", "From arrival to the last token, of requests that finished."),
    _latency("Queueing", "moelab_queueing_seconds", "From arrival to the first step that computes any of it."),
    _latency("Step", "moelab_step_seconds", "A step's own time."),
    Panel("buckets", "TTFT by bucket", "How many first tokens came within which time.", "none",
          (Query(f"sum by (le) (increase({q.series('moelab_ttft_seconds_bucket')}[$__rate_interval]))", "{{le}}"),)),
    Panel("bars", "Objective met", "Share of all requests that met the workload's SLO: its TTFT, its TPOT, or both."
          " Only runs whose workload has one.", "percentunit",
          (Query(q.level("moelab_slo_met_ratio", "of"), "{{run}} {{policy}} {{of}}"),), most=1)))

BOARD = Board("moelab-overview", "moelab: overview",
              "Throughput, latencies and the distance from the bound, of every run that Prometheus sees.",
              (TOTALS, THROUGHPUT, LATENCY))
