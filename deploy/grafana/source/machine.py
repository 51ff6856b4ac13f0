"""The machine: what its lanes did, what its links carried, what its memory holds."""

from deploy.grafana.source import queries as q
from deploy.grafana.source.panels import Board, Panel, Query, Row

BUSY, STALL, SERVERS = "moelab_lane_busy_seconds_total", "moelab_lane_stall_seconds_total", "moelab_lane_servers"
PATH = "moelab_critical_path_seconds_total"
MOVED, MEMORY = "moelab_link_bytes_total", "moelab_memory_bytes"
PEAK, CAPACITY = "moelab_memory_peak_bytes", "moelab_memory_capacity_bytes"
HELD = 'part!="activations"'
BY_LANE, BY_DEVICE = "{{run}} {{policy}} {{lane}}", "{{run}} {{policy}} {{device}}"


def _of_servers(busy: str, servers: str, *labels: str) -> str:
    """A share of a lane's servers: a lane of three is fully used when it works three seconds a second."""
    return f"{busy} / on (run, policy, lane) group_left () {servers}" if labels else f"{busy} / {servers}"


LANES = Row("Lanes", (
    Panel("series", "Lane utilisation", "Busy time of a lane's servers over emulated time and their number.",
          "percentunit",
          (Query(_of_servers(q.per_emulated_second(BUSY, "lane"), q.gauge(SERVERS, "lane")), BY_LANE),), most=1),
    Panel("bars", "Lane utilisation, since the run began", "The same over all emulated time.", "percentunit",
          (Query(_of_servers(q.total_per_emulated_second(BUSY, "lane"), q.level(SERVERS, "lane")), BY_LANE),), most=1,
          steps=((0.7, "yellow"), (0.9, "orange"))),
    Panel("series", "Stalls by cause", "Time that lanes' servers waited, by what they waited for, over emulated time:"
          " summed over lanes.", "none",
          (Query(q.per_emulated_second(STALL, "cause"), "{{run}} {{policy}} {{cause}}"),), stacked=True),
    Panel("bars", "Stalls of each lane, since the run began", "Share of a lane's time by what it waited for.",
          "percentunit",
          (Query(_of_servers(q.total_per_emulated_second(STALL, "lane", "cause"), q.level(SERVERS, "lane"), "cause"),
                 "{{run}} {{policy}} {{lane}}: {{cause}}"),), most=1),
    Panel("series", "What steps' time went into", "Steps' time by what their critical path spent it on, over emulated"
          " time.", "percentunit", (Query(q.per_emulated_second(PATH, "cause"), "{{run}} {{policy}} {{cause}}"),),
          width=24, stacked=True)))

LINKS = Row("Links", (
    Panel("series", "Bytes by cause", "Bytes over all links per emulated second, by what they are moved for.", "Bps",
          (Query(q.per_emulated_second(MOVED, "cause"), "{{run}} {{policy}} {{cause}}"),), stacked=True),
    Panel("series", "Bytes by link", "Bytes over each link per emulated second.", "Bps",
          (Query(q.per_emulated_second(MOVED, "link"), "{{run}} {{policy}} {{link}}"),)),
    Panel("bars", "Bytes by link and cause, since the run began", "All that crossed each link.", "bytes",
          (Query(q.total(MOVED, "link", "cause"), "{{run}} {{policy}} {{link}}: {{cause}}"),), width=24)))

ROOM = Row("Memory", (
    Panel("series", "Memory in use", "Bytes of experts and of KV caches on each device.", "bytes",
          (Query(q.gauge(MEMORY, "device", "part"), "{{run}} {{policy}} {{device}}: {{part}}"),)),
    Panel("bars", "Peak of memory, of capacity", "The most that experts, dense weights and KV caches took of each"
          " device; activations stand beside it.", "percentunit",
          (Query(f"{q.level_sum(PEAK, 'device', where=HELD)} / {q.level(CAPACITY, 'device')}", BY_DEVICE),), most=1,
          steps=((0.8, "yellow"), (0.95, "red"))),
    Panel("series", "KV blocks in use", "Blocks of the KV cache that sequences hold, of all.", "percentunit",
          (Query(q.over(q.gauge("moelab_kv_blocks_used"), q.gauge("moelab_kv_blocks"))),), most=1,
          steps=((0.95, "red"),)),
    Panel("stat", "Pre-emptions", "Requests that lost their KV cache and began again.", "none",
          (Query(q.total("moelab_preemptions_total")),), steps=((1, "yellow"),)),
    Panel("bars", "Energy", "Joules since the run began, of devices and links whose hardware file tells them.", "joule",
          (Query(q.total("moelab_energy_joules_total", "device"), BY_DEVICE),), width=24)))

BOARD = Board("moelab-machine", "moelab: the machine", "What lanes, links and memory of the emulated machine do.",
              (LANES, LINKS, ROOM))
