"""The cluster: how the emulation itself is doing. The only place where the host's seconds are shown."""

from deploy.grafana.source import queries as q
from deploy.grafana.source.panels import Board, Panel, Query, Row

OK, VOID = 'verdict="OK"', 'verdict="VOID"'
VERDICT = "moelab_wall_verdict"
FINE = {0: ("OK", "green"), 1: ("VOID", "red")}

PLAYED = Row("At the wall clock", (
    Panel("stat", "Verdict", "OK: the run was played as the engine says. VOID: its real times say nothing.", "none",
          (Query(f"({q.level(VERDICT, where=OK)} == 1) * 0 or ({q.level(VERDICT, where=VOID)} == 1)"),), width=6,
          steps=((1, "red"),), values=FINE),
    Panel("stat", "Dilation", "Real seconds for an emulated one.", "none",
          (Query(q.level("moelab_dilation_ratio")),), width=6),
    Panel("bars", "Lag", "Real seconds that operations ended behind their deadlines, by rank.", "s",
          (Query(q.level("moelab_lag_seconds", "rank"), "{{run}} {{policy}} {{rank}}"),), width=6),
    Panel("stat", "Late operations", "Operations that ended later than is allowed.", "none",
          (Query(q.total("moelab_wall_late_operations_total")),), width=6, steps=((1, "yellow"),)),
    Panel("stat", "Error", "Real time of all steps over their dilated emulated time, less one: VOID beyond 2 %.",
          "percentunit", (Query(q.level("moelab_wall_error_ratio")),), width=6, least=None, steps=((0.02, "red"),)),
    Panel("series", "Late tokens of a served machine", "How late tokens came at the wall clock, in real"
          " seconds: mean, and P99 from buckets.", "s",
          (Query(q.mean("moelab_late_real_seconds"), "{{run}} {{policy}} mean"),
           Query(q.quantile(0.99, "moelab_late_real_seconds"), "{{run}} {{policy}} P99")), width=9,
          steps=((0.1, "red"),)),
    Panel("series", "Pace", "Emulated seconds that pass in a real one: how fast this host emulates.", "none",
          (Query(q.rate(q.EMULATED)),), width=9)))

ACTORS = Row("Actors", (
    Panel("stat", "Actors", "Actors or worker processes that stand for devices.", "none",
          (Query(q.level("moelab_actors")),), width=6),
    Panel("stat", "Nodes", "Hosts that actors are on, of a Ray cluster.", "none", (Query(q.level("moelab_nodes")),),
          width=6),
    Panel("stat", "Restarts", "Actors or worker processes that were started again.", "none",
          (Query(q.total("moelab_restarts_total")),), width=6, steps=((1, "yellow"), (5, "red"))),
    Panel("stat", "Done", "How far the run is.", "percentunit", (Query(q.level("moelab_done_ratio")),), width=6,
          most=1),
    Panel("series", "Actors of Ray by state", "All actors of the Ray clusters that are scraped, whoever's they are.",
          "none",
          (Query("sum by (State) (ray_actors)", "{{State}}"),)),
    Panel("bars", "Scraped", "1 for each target that answers Prometheus.", "none",
          (Query('up{job=~"moelab.*|ray"}', "{{job}} {{instance}}"),), most=1)))

FAULTS = Row("Faults", (
    Panel("series", "Faults that last", "Emulated faults that are in effect.", "none",
          (Query(q.gauge("moelab_faults")),),
          width=8, steps=((1, "red"),)),
    Panel("bars", "Faults that took effect", "Since the run began, by kind.", "none",
          (Query(q.total("moelab_faults_taken_total", "kind"), "{{run}} {{policy}} {{kind}}"),), width=8),
    Panel("bars", "Recovery", "Emulated time until steps could go on behind faults, by kind.", "s",
          (Query(q.total("moelab_fault_recovery_seconds_total", "kind"), "{{run}} {{policy}} {{kind}}"),), width=8),
    Panel("bars", "Bytes that faults cost", "Of experts, sent over links and read from storage.", "bytes",
          (Query(q.total("moelab_fault_bytes_total", "source"), "{{run}} {{policy}} {{source}}"),))))

DOORS = Row("A served machine", (
    Panel("series", "State", "1 for the state that the machine is in.", "none",
          (Query(q.gauge("moelab_machine_state", "state"), "{{run}} {{policy}} {{state}}"),), width=8, most=1),
    Panel("series", "Answers under way over HTTP", "Streams that clients listen to.", "none",
          (Query(q.gauge("moelab_http_streams")),), width=8),
    Panel("bars", "Answers of the HTTP door", "By path and status since it was opened.", "none",
          (Query(q.total("moelab_http_responses_total", "path", "code"), "{{path}} {{code}}"),), width=8)))

BOARD = Board("moelab-cluster", "moelab: the cluster",
              "Actors, restarts, lag and verdict, faults, and the doors of a served machine.",
              (PLAYED, ACTORS, FAULTS, DOORS))
