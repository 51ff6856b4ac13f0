"""From configs to the values that are emulated: a `Machine` from a hardware file, a `Model` from a shape."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from cluster.config.hardware import (
    FALLBACK,
    ActionSpec,
    ActionsSpec,
    DeviceGroup,
    Dtype,
    Family,
    Hardware,
    KernelSpec,
    LaneSpec,
)
from cluster.config.precision import DTYPE_BYTES, Precision
from cluster.config.quantities import Time
from cluster.topology import connections
from emulation.actions import Action, Actions
from emulation.errors import ConfigError, unknown
from emulation.machine import Device, Issuer, Kernel, Link, Machine
from emulation.model import NOTHING, Layer, Model, Work, ceil
from emulation.ops import Lane, Pool
from emulation.units import ceil_ps
from moe.shapes import ModelShape

QUANTUM_BYTES = 1 << 20


class _Lanes:
    """Lanes by name, numbered as they are first asked for."""

    def __init__(self) -> None:
        self.all: dict[str, Lane] = {}

    def number(self, name: str, servers: int = 1, in_order: bool = False) -> int:
        self.all.setdefault(name, Lane(name, servers, in_order))
        return list(self.all).index(name)

    def of(self, device: str, specs: tuple[LaneSpec, ...]) -> tuple[int, ...]:
        return tuple(self.number(f"{device}.{s.name}", s.servers, s.in_order) for s in specs)


def resolve_options(hardware: Hardware, options: Mapping[str, int], name: str = "the machine") -> dict[str, int]:
    """The value of every parameter of a machine, those that the run does not choose by default."""
    for option, value in options.items():
        if option not in hardware.parameters:
            raise ConfigError(f"{name}: {unknown('option', option, hardware.parameters)}")
        allowed = hardware.parameters[option]
        if not allowed.min <= value <= allowed.max:
            raise ConfigError(f"{name}: option {option} is {value}; it goes from {allowed.min} to {allowed.max}")
    return {key: options.get(key, parameter.default) for key, parameter in hardware.parameters.items()}


def device_names(hardware: Hardware, options: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """Group -> names of its devices: the group's own, or name0, name1, ... where it has a count."""
    out: dict[str, tuple[str, ...]] = {}
    for group, spec in hardware.devices.items():
        if spec.count is None:
            out[group] = (group,)
        else:
            count = options[spec.count] if isinstance(spec.count, str) else spec.count
            times = 1 if spec.per is None else options[spec.per]
            out[group] = tuple(f"{group}{i}" for i in range(count * times))
    taken = [name for names in out.values() for name in names]
    if twice := [name for name in taken if taken.count(name) > 1]:
        raise ConfigError(f"two devices are named {twice[0]!r}: rename the group that ends in a number")
    return out


def build_machine(hardware: Hardware, options: Mapping[str, int], compute_dtype: Dtype,
                  name: str = "machine") -> Machine:
    """The machine that a hardware file describes, with its rates for one compute type."""
    chosen = resolve_options(hardware, options, name)
    groups = device_names(hardware, chosen)
    lanes, devices, pools = _Lanes(), [], []
    for group, spec in hardware.devices.items():
        kernels: dict[str, Kernel] = {family: _kernel(spec, family, compute_dtype, group)
                                      for family in (*spec.runs, *spec.kernels)}
        for device in groups[group]:
            own = spec.lanes or ((LaneSpec(name="core"),) if spec.computes else ())
            issuer = None
            if spec.issuer:
                issuer = Issuer(lanes.number(spec.issuer.thread, in_order=True), _ps(spec.issuer.sync))
            held = lanes.of(device, own)
            if spec.thread is not None:
                held = (*held, lanes.number(spec.thread, in_order=True))
            memory = int(spec.memory.si) if spec.memory else 0
            devices.append(Device(device, spec.kind, memory, held, lanes.of(device, spec.copy_lanes), kernels, issuer,
                                  spec.rests))
            pools += [Pool(f"{device}.{pool}", int(count.si)) for pool, count in spec.pools.items()]
    index = {device.name: i for i, device in enumerate(devices)}
    links = [Link(f"{link.name}:{link.source}>{link.target}", index[link.source], index[link.target],
                  lanes.number(link.lane, link.servers, link.in_order), _whole(link.bandwidth.si), _ps(link.latency))
             for link in connections(hardware.links, groups, chosen)]
    homes = tuple(index[device] for group in hardware.homes for device in groups[group])
    machine = Machine(name, tuple(devices), tuple(links), tuple(lanes.all.values()), tuple(pools), homes,
                      int(hardware.quantum.si) if hardware.quantum else QUANTUM_BYTES, _actions(hardware.actions))
    _check_joined(machine)
    return machine


def _actions(spec: ActionsSpec | None) -> Actions | None:
    if spec is None:
        return None

    def action(of: ActionSpec) -> Action:
        return Action(int(of.least.si), int(of.matrices.si) if of.matrices else 1, of.whole_expert)

    return Actions(_ps(spec.frame), action(spec.compute), action(spec.load), action(spec.hop), action(spec.token),
                   int(spec.allocate.si), int(spec.release.si), spec.idle_compute)


def compute_dtype_of(peak: Mapping[Dtype, object], wanted: Dtype) -> Dtype | None:
    """The type that a device with these peaks computes `wanted` in, or None where it has neither it nor a wider."""
    return next((dtype for dtype in (wanted, *FALLBACK[wanted]) if dtype in peak), None)


def fallbacks(hardware: Hardware, compute_dtype: Dtype) -> list[str]:
    """A sentence for each device group that computes in another type than the run asks for."""
    out = []
    for group, spec in hardware.devices.items():
        got = compute_dtype_of(spec.peak, compute_dtype)
        if spec.computes and got not in (None, compute_dtype):
            out.append(f"{group} has no {compute_dtype} peak and computes in {got}")
    return out


def _kernel(spec: DeviceGroup, family: Family, compute_dtype: Dtype, group: str) -> Kernel:
    own = spec.kernels.get(family) or KernelSpec(overhead=spec.overhead)
    peaks = own.peak or spec.peak
    dtype = compute_dtype_of(peaks, compute_dtype)
    if dtype is None:
        able = ", ".join(peaks)
        raise ConfigError(f"{group} computes {able} only, and the precision asks for {compute_dtype}: "
                          f"choose a precision that computes in {able}, or give the device a peak for {compute_dtype}")
    rate = own.bandwidth or spec.memory_bandwidth
    if rate is None:
        raise ConfigError(f"{group}: the {family} kernel has no bandwidth")
    slower = spec.slowdown.si if spec.slowdown else Fraction(1)
    bytes_per_s = rate.si * (own.bandwidth_fraction.si if own.bandwidth_fraction else 1) / slower
    flops_per_s = peaks[dtype].si * (own.peak_fraction.si if own.peak_fraction else 1) / slower
    overhead = own.overhead.si * slower if own.overhead else Fraction(0)
    issue = sum((each.si for each in (own.issue, own.interpreter) if each), Fraction(0))
    return Kernel(ceil_ps(overhead), _whole(bytes_per_s), _whole(flops_per_s), ceil_ps(issue))


def _whole(rate: Fraction) -> int:
    """A rate a second as the whole number below it, at least one."""
    return max(1, rate.numerator // rate.denominator)


def _ps(time: Time | None) -> int:
    return ceil_ps(time.si) if time else 0


def _check_joined(machine: Machine) -> None:
    for home in machine.homes:
        for i in (*machine.stores, *machine.units):
            for source, target in ((home, i), (i, home)):
                if (source, target) not in machine.routes:
                    ends = [machine.devices[d].name for d in (source, target)]
                    raise ConfigError(f"{machine.name}: no links lead from {ends[0]} to {ends[1]}")


@dataclass(frozen=True)
class _Bytes:
    """Bytes of one dense weight, one activation, one cached key or value."""

    dense: int
    activation: int
    cache: int


def build_model(shape: ModelShape, precision: Precision) -> Model:
    """What a model of this shape costs at this precision: bytes of weights and activations, flops (a MAC is two)."""
    each = _Bytes(DTYPE_BYTES[precision.dense_weights], DTYPE_BYTES[precision.activations],
                  DTYPE_BYTES[precision.kv_cache])
    d, vocab = shape.d_model, shape.vocab
    head_weights = vocab * d + (vocab if shape.head_bias else 0) + shape.norm_params
    return Model(
        name=shape.model,
        layers=tuple(_layer(shape, layer, each) for layer in range(shape.layers)),
        experts=shape.experts, top_k=shape.top_k, d_model=d, d_ff=shape.expert_ff, matrices=shape.matrices,
        weight_bytes=precision.expert_weights.bytes_each, activation_bytes=Fraction(each.activation),
        dequant_flops=int(precision.dequant_flops.si) if precision.dequant_flops else 0,
        head=Work(head_weights * each.dense, (d + vocab) * each.activation, 2 * vocab * d),
        embedding_bytes=0 if shape.tied_embeddings else shape.embedding_params * each.dense,
        encoder_layers=shape.encoder_layers)


def _layer(shape: ModelShape, layer: int, each: _Bytes) -> Layer:
    d = shape.d_model
    routed = shape.is_moe(layer)
    params, cross = shape.attention_params(layer), shape.cross_params(layer)
    query, source = cross - cross // 2, cross // 2  # queries and outputs; keys and values
    width = shape.heads * shape.head_dim
    return Layer(
        attention=Work((params + 2 * shape.norm_params) * each.dense, _attention_rows(shape) * each.activation,
                       2 * params),
        kv_bytes=shape.kv_elements(layer) * each.cache,
        context_flops=_context_flops(shape),
        router=Work(shape.router_params * each.dense, (d + shape.experts) * each.activation,
                    2 * shape.experts * d) if routed else NOTHING,
        dense=NOTHING if routed else _ffn(shape, shape.dense_ff, shape.dense_params(layer), each),
        shared=_ffn(shape, shape.shared_experts * shape.shared_ff, shape.shared_params, each)
        if routed and shape.shared_experts else NOTHING,
        cross=Work((query + shape.norm_params) * each.dense, (2 * d + 2 * width) * each.activation, 2 * query)
        if cross else NOTHING,
        source=Work(source * each.dense, (d + 2 * width) * each.activation, 2 * source) if cross else NOTHING,
        source_bytes=2 * width * each.cache if cross else 0)


def _ffn(shape: ModelShape, width: int, params: int, each: _Bytes) -> Work:
    """Rows as in `Model.expert_work`: read and write d_model, and each of the inner widths once."""
    rows = 2 * shape.d_model + (shape.matrices - 1) * width
    return Work(params * each.dense, ceil(Fraction(rows * each.activation)), 2 * params)


def _attention_rows(shape: ModelShape) -> int:
    """Activations that the projections of one token read and write: hidden in and out, queries, cache row, heads."""
    if shape.mla is not None:
        m = shape.mla
        queries = shape.heads * (m.qk_nope_head_dim + m.qk_rope_head_dim)
        return 2 * shape.d_model + queries + m.kv_lora_rank + m.qk_rope_head_dim + shape.heads * m.v_head_dim
    return 2 * shape.d_model + 2 * shape.heads * shape.head_dim + 2 * shape.kv_heads * shape.head_dim


def _context_flops(shape: ModelShape) -> int:
    """Flops of one token against one position, over all heads: scores and weighted sum.

    With latent attention both run in the latent space that is cached (the absorbed form, arXiv 2405.04434).
    """
    if shape.mla is not None:
        m = shape.mla
        return 2 * shape.heads * (2 * m.kv_lora_rank + m.qk_rope_head_dim)
    return 4 * shape.heads * shape.head_dim
