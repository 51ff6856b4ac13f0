"""The parts of a result. Times in `_ps` are whole picoseconds and exact; figures in `_s` are those, divided once."""

from pydantic import Field, JsonValue

from cluster.observe.part import Part as Part
from cluster.observe.schema_series import Load as Load
from cluster.observe.schema_series import Series as Series

SCHEMA_VERSION = 4


class Constant(Part):
    """A constant of the config: its dotted path, its value with unit, and where that is from."""

    path: str
    value: str
    kind: str
    source: str
    range: tuple[str, str] | None = None


class Confidence(Part):
    """How far the machine's constants can be trusted: a label, and how many constants are of which kind."""

    label: str
    kinds: dict[str, int]


class Quantiles(Part):
    """Mean and nearest-rank percentiles, each an observed value. exact_ps: P50, P90, P99, where they are whole."""

    count: int
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    exact_ps: tuple[int, int, int] | None = None


class Phase(Part):
    """Steps of one phase. A step with any prefill token is a prefill step.

    time_ps: the steps' own times, summed. tokens_per_s: all their tokens over that time. latency_ps: the same time by
    what the critical path spent it on; sums to time_ps. hits, misses: experts of a layer that a home held at the
    decision, or not; hit_rate: None where no home ever held one. runs: device -> expert runs. substituted, dropped:
    routed pairs; substituted_experts: routed experts of a layer that another stood in for. s_mbu, s_mfu: bytes of
    activated weights and of caches read, and flops on them, over the time and the rates of all computing devices'
    fastest kernels together (sparse bandwidth and flops utilisation, MoE-CAP, arXiv 2412.07067).
    """

    steps: int
    prefill_tokens: int
    decode_tokens: int
    time_ps: int
    tokens_per_s: float | None
    hits: int
    misses: int
    hit_rate: float | None
    loads: int
    loaded_bytes: int
    substituted: int
    dropped: int
    substituted_experts: int
    runs: dict[str, int]
    latency_ps: dict[str, int]
    s_mbu: float | None
    s_mfu: float | None


class Requests(Part):
    """The requests as served, one a place in each column.

    arrival_ps: when it came. started_ps: the begin of the first step that computed any of it. first_ps: the end of the
    step that ended its prefill; None where none ran or ended. last_ps: the end of the step of its last token.
    preemptions: how often it lost its cache and computed it anew.
    """

    sequence: tuple[int, ...]
    arrival_ps: tuple[int, ...]
    prompt_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]
    emitted_tokens: tuple[int, ...]
    started_ps: tuple[int | None, ...]
    first_ps: tuple[int | None, ...]
    last_ps: tuple[int | None, ...]
    preemptions: tuple[int, ...]


class Slo(Part):
    """Goodput: requests that finished with TTFT and TPOT of at most these, as a share of all and a second of makespan.

    ttft_share: those whose TTFT is met; tpot_share: those that finished with their TPOT met (one token has none).
    """

    ttft_s: float | None
    tpot_s: float | None
    ttft_share: float
    tpot_share: float
    share: float
    requests_per_s: float | None


class Serving(Part):
    """Continuous batching. queueing: from arrival to the begin of the first step. end_to_end: from arrival to the last
    token, of those that finished. kv_*_blocks: by home. recomputed_tokens: positions computed again behind
    pre-emptions. prefix_tokens: positions found in the cache in place of being computed."""

    batcher: str
    finished: int
    queueing: Quantiles | None
    end_to_end: Quantiles | None
    block_tokens: int
    block_bytes: int
    kv_capacity_blocks: tuple[int, ...]
    kv_peak_blocks: tuple[int, ...]
    preemptions: int
    recomputed_tokens: int
    prefix_tokens: int
    slo: Slo | None


class Prefetch(Part):
    """useful: used. late: used, but arrived after the decision that used it. wasted: never used."""

    issued: int
    useful: int
    late: int
    wasted: int


class Traffic(Part):
    """Bytes that crossed a link, by cause."""

    link: str
    source: str
    target: str
    bytes: dict[str, int]
    total_bytes: int


class Skew(Part):
    """Load of the fullest expert over the mean, by MoE layer (None where a layer has no load)."""

    layers: tuple[float | None, ...]
    mean: float | None
    max: float | None


class LaneUse(Part):
    """A lane's time: busy_ps + stall_ps == servers * horizon. busy, stall: the same by kind of work and by cause."""

    lane: str
    device: str
    servers: int
    busy_ps: int
    stall_ps: int
    busy: dict[str, int]
    stall: dict[str, int]


class DeviceUse(Part):
    """The use of a device: that of its busiest compute lane."""

    device: str
    kind: str
    lane: str
    busy_ps: int
    stall_ps: int
    stall: dict[str, int]


class Memory(Part):
    """peak_bytes: peaks of its parts, summed (they may fall at different instants). activations_peak_bytes: beside it,
    for no budget sets it aside: the hidden state of a step's tokens, and the widest of what one part of a layer reads
    and writes for them and what a gating holds (emulation/lowering/gating.py)."""

    device: str
    capacity_bytes: int
    budget_bytes: int
    experts_peak_bytes: int
    dense_bytes: int
    kv_peak_bytes: int
    peak_bytes: int
    activations_peak_bytes: int


class Bound(Part):
    """The lower bound of the whole run, which side of it binds, and the run's time over it."""

    lb_ps: int = Field(ge=0)
    binds: str
    times: float | None
    detail: dict[str, JsonValue] = Field(default_factory=dict)


class Energy(Part):
    """Joules until the horizon, of those devices and links whose hardware file says any (docs/energy.md).

    by_part: idle, busy, bytes, flops, links: what they are spent on, of those that any file says; sums to joules, as
    by_device and by_link together do. device_parts: device -> the same parts of it. joules_per_token,
    tokens_per_kilojoule: of the tokens that were emitted.
    """

    joules: float
    by_part: dict[str, float]
    by_device: dict[str, float]
    by_link: dict[str, float]
    device_parts: dict[str, dict[str, float]]
    joules_per_token: float | None
    tokens_per_kilojoule: float | None


class Stretch(Part):
    """Steps before, during or after a fault. time_ps: their own times, summed. decode_step_s: the mean of those without
    a prefill token, less what they waited for experts that a fault had moved."""

    steps: int
    prefill_tokens: int
    decode_tokens: int
    time_ps: int
    tokens_per_s: float | None
    decode_step_s: float | None


class FaultEffect(Part):
    """A fault, when it took effect (None: not in this run), and what that cost (docs/faults.md).

    at_ps, until_ps: as it was told. took_ps, step: the decision from which on it acted. over_ps: the decision from
    which on it did not. sent_bytes, stored_bytes: of experts, brought over links and read from storage. recovery_ps:
    until the step could go on. before: steps that began earlier; during: from that step on; after: once it was over.
    """

    fault: str
    of: str
    what: str
    at_ps: int
    until_ps: int | None
    took_ps: int | None
    step: int | None
    over_ps: int | None
    sent_bytes: int
    stored_bytes: int
    recovery_ps: int
    before: Stretch | None
    during: Stretch | None
    after: Stretch | None


class Answer(Part):
    """What a sequence was answered: token ids, and their text."""

    sequence: int
    token_ids: tuple[int, ...]
    text: str


class Wall(Part):
    """How a run was played at the wall clock, and whether that may be believed (docs/wall.md).

    verdict: OK or VOID, with the first reason. error: real time of all steps over dilated emulated time, less one;
    worst_step_error: the same of the step that is off most. ops: pieces of operations that were played.
    causality_violations: those that really started before something that they wait for. late_ops: those that ended more
    than late_after_s behind what their deadline and their real inputs allowed. lag_*_s: real ends behind deadlines.
    bytes_per_s: really read for loads, over the real time of the run. smallest_dilation: what the host was measured to
    manage; chosen_by: what asked for the dilation. turn_s, hop_s: what a piece costs behind one of the same player, of
    another. standstill_s: the longest time in which a player did not come to look at the clock. others_cores: cores
    that other programs kept busy.
    """

    verdict: str
    reason: str
    dilation: float
    smallest_dilation: float
    chosen_by: str
    error: float
    worst_step_error: float
    real_s: float
    steps: int
    ops: int
    causality_violations: int
    late_ops: int
    late_after_s: float
    lag_p50_s: float
    lag_p99_s: float
    read_bytes: int
    bytes_per_s: float
    players: int
    turn_s: float
    hop_s: float
    standstill_s: float
    others_cores: float


class Host(Part):
    """What depends on the host and not on the run: all that the digest leaves out.

    operations: how many the engine timed. wall: of a run at the wall clock. nodes: of a Ray cluster, those that device
    actors were on; checkpoints_unpacked: on how many of them one arrived that was not there before.
    """

    operations: int = 0
    transport: str = "local"
    workers: int = 0
    nodes: int = 0
    checkpoints_unpacked: int = 0
    ports: dict[str, int] = Field(default_factory=dict)
    paths: dict[str, str] = Field(default_factory=dict)
    times: dict[str, JsonValue] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    restarts: int = 0
    lag: dict[str, JsonValue] = Field(default_factory=dict)
    wall: Wall | None = None
