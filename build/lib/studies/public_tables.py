"""Errors of our device models over the MoE kernel latencies that the AISimulate wheel carries (Apache-2.0).

For each GPU, kernel and precision one set of constants is fitted to the calls of all model shapes (*fitted*), and for
each shape one to the calls of all others, which predicts it (*carried over*). Nothing is fitted to a single shape.
The tables are read where the wheel is installed, and never copied: `pip install moelab[public-tables]`, or an
environment of the wheel's own, named by the folder of its packages.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.errors import ConfigError
from emulation.extras import require
from studies.fitting import Floats, Table
from studies.moe_kernel import RULES, Calls, Kernel, Work, first_start, fit_kernel, work_of

PACKAGE = "aisimulate"
DATA = "aisimulate_core/systems/data"
GPUS: Mapping[str, str] = {"h200": "h200_sxm", "h100": "h100_sxm", "a100": "a100_sxm"}
"""GPU -> folder of the wheel."""

WEIGHT_BYTES: Mapping[str, float] = {"bfloat16": 2.0, "fp8": 1.0, "fp8_block": 1.0 + 4 / 128 ** 2,
                                     "int4_wo": 0.5 + 2 / 32, "w4a16_mxfp4": 0.5 + 1 / 32}
"""Bytes of a weight with its scales: fp8_block has a float for 128 x 128, int4 two bytes and MXFP4 one for 32."""

UNGATED = {(2688, 1856), (1024, 2688), (4096, 2688), (2048, 5120), (8192, 5120)}
"""(hidden, inter) of Nemotron-H experts: up, squared ReLU, down. The cases that come with the tables say so."""

ALIGNED = 16
"""Columns of a slice that vector loads need to divide: slices of 22, 44 or 58 columns run two to four times as long."""

LEAST_SHAPES = 3
"""Model shapes that a kernel must have been measured with: one is left out, and two at least remain."""

FITTED, CARRIED = 0.06, 0.15
"""Median |error| to reach, fitted and carried over to another shape."""

COLUMNS = ("kernel_source", "moe_dtype", "num_tokens", "hidden_size", "inter_size", "topk", "num_experts",
           "moe_tp_size", "moe_ep_size", "distribution", "latency")

Columns = Mapping[str, Sequence[Any] | NDArray[Any]]


class Group(NamedTuple):
    """One kernel on one GPU, as one version of one framework was measured."""

    gpu: str
    framework: str
    version: str
    kernel: str
    precision: str


@dataclass(frozen=True)
class Spread:
    """|relative error|: median, of nine rows in ten, and the largest."""

    p50: float
    p90: float
    max: float

    @staticmethod
    def of(residuals: Floats) -> "Spread":
        size = np.abs(residuals)
        return Spread(float(np.median(size)), float(np.percentile(size, 90)), float(size.max()))


@dataclass(frozen=True)
class Row:
    """Errors of a group over one shape, or over all (shape "").

    roofline: overhead + max(bytes, flops), as a hardware file states it; grouped: with tiles (`studies.moe_kernel`),
    by `rule`. between: a table of the series itself, each row told by its two neighbours: what a smooth model cannot go
    below. constants: of the grouped model. jumps: of a shape, how many times as long a balanced call takes with the
    first tokens beyond the number of experts as with the last below: 1 where the kernel stays the same.
    """

    group: Group
    shape: str
    calls: int
    roofline: Spread
    roofline_carried: Spread
    grouped: Spread
    grouped_carried: Spread
    between: Spread | None
    rule: str
    constants: tuple[float, ...]
    jump: float | None

    @property
    def reached(self) -> bool:
        """Whether the finer model reaches both goals."""
        return self.grouped.p50 <= FITTED and self.grouped_carried.p50 <= CARRIED


def find_tables(site_packages: Path | None = None) -> Path:
    """The wheel's tables, in this environment or in a folder of another's packages; one sentence if there are none."""
    if site_packages is None:
        try:
            site_packages = Path(str(distribution(PACKAGE).locate_file("")))
        except PackageNotFoundError:
            raise ConfigError(f"the public tables come with the {PACKAGE} wheel, which is not installed: install "
                              "moelab[public-tables], or name the folder of packages of an environment that has it"
                              ) from None
    if not (site_packages / DATA).is_dir():
        raise ConfigError(f"{site_packages} holds no {DATA}: the tables come with the {PACKAGE} wheel, "
                          "moelab[public-tables]")
    return site_packages / DATA


def read_tables(data: Path, gpus: Iterable[str] = tuple(GPUS)) -> Iterator[tuple[str, str, str, Columns]]:
    """(GPU, framework, version, columns) of every table of MoE kernels."""
    require("fidelity --tables", "parquet")
    from pyarrow import parquet

    for gpu in gpus:
        for file in sorted((data / GPUS[gpu] / "moe").glob("*/*/moe_perf.parquet")):
            table = parquet.read_table(file, columns=list(COLUMNS))
            yield gpu, file.parts[-3], file.parts[-2], {name: table[name].to_numpy() for name in COLUMNS}


def _newest(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def grouped(tables: Iterable[tuple[str, str, str, Columns]], most_tp: int) -> dict[Group, tuple[Calls, NDArray[Any]]]:
    """Calls by group, and the shape of each; of the versions of a kernel the one with most shapes, then the newest.

    Kept are calls that hold all experts (no expert parallelism: which of them a rank holds is no column), in slices of
    1 / most_tp at the smallest, whose columns vector loads can take. A call that was measured again counts once.
    """
    found: dict[Group, tuple[Calls, NDArray[Any]]] = {}
    for gpu, framework, version, table in tables:
        of = {name: np.asarray(table[name]) for name in COLUMNS}
        inter = of["inter_size"] // of["moe_tp_size"]
        plain = (of["moe_ep_size"] == 1) & (of["moe_tp_size"] <= most_tp) & (inter % ALIGNED == 0)
        plain &= np.isin(of["moe_dtype"], list(WEIGHT_BYTES))
        names = np.array([f"{kernel}|{precision}" for kernel, precision in
                          zip(of["kernel_source"], of["moe_dtype"], strict=True)])
        for name in np.unique(names[plain]).tolist():
            kernel, precision = name.split("|")
            rows = np.flatnonzero(plain & (names == name))
            group = Group(gpu, framework, version, kernel, precision)
            found[group] = _calls(of, rows, inter, group)
    best: dict[tuple[str, str, str, str], Group] = {}
    for group, (_, shapes) in found.items():
        rank = (len(np.unique(shapes)), _newest(group.version))
        key = (group.gpu, group.framework, group.kernel, group.precision)
        held = best.get(key)
        if held is None or rank > (len(np.unique(found[held][1])), _newest(held.version)):
            best[key] = group
    return {group: found[group] for group in best.values() if len(np.unique(found[group][1])) >= LEAST_SHAPES}


def _gated(group: Group, hidden: int, inter: int) -> bool:
    """Whether experts have a gate, as they were measured.

    Nemotron-H's have none, and not every collector knew: SGLang's Triton kernel and vLLM before 0.24 take for them what
    three matrices take by the constants of all other shapes, to 2 %, and half as long again as two would.
    """
    ungated = {"vllm": _newest(group.version) >= (0, 24), "sglang": "flashinfer" in group.kernel,
               "trtllm": "nongated" in group.kernel}
    return (hidden, inter) not in UNGATED or not ungated.get(group.framework, True)


def _calls(of: Columns, rows: NDArray[np.int64], inter: NDArray[Any], group: Group) -> tuple[Calls, NDArray[Any]]:
    """The calls of some rows, each once with its median time, and their shapes."""
    whole = [np.asarray(of[name])[rows].astype(np.int64) for name in
             ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts")]
    kinds, kind = np.unique(np.asarray(of["distribution"])[rows].astype(str), return_inverse=True)
    keys, which = np.unique(np.stack([*whole, inter[rows].astype(np.int64), kind]), axis=1, return_inverse=True)
    order = np.argsort(which, kind="stable")
    seconds = np.asarray(of["latency"], np.float64)[rows][order] * 1e-3
    medians = [float(np.median(part)) for part in
               np.split(seconds, np.flatnonzero(np.diff(which[order])) + 1)]
    tokens, hidden, full, top_k, experts, slices, kind = keys
    matrices = np.array([2 + _gated(group, *shape) for shape in zip(hidden.tolist(), full.tolist(), strict=True)])
    shapes = np.array([f"{h}x{f} top {k} of {e}" for h, f, k, e in zip(hidden, full, top_k, experts, strict=True)])
    return Calls(tokens, hidden, slices, top_k, experts, matrices, np.full(len(tokens), WEIGHT_BYTES[group.precision]),
                 kinds[kind].tolist(), np.array(medians)), shapes


def _best(work: Work, starts: Mapping[str, Floats]) -> Kernel:
    """The grouped model by whichever rule fits better."""
    return min((fit_kernel(work, rule, starts[rule]) for rule in RULES), key=lambda kernel: kernel.loss)


def _residuals(kernel: Kernel, work: Work) -> Floats:
    return np.asarray(kernel.predict(work) / work.seconds - 1, np.float64)


def _between(calls: Calls, rows: NDArray[np.int64]) -> Floats:
    """Relative errors of a table of each series over tokens, each row told by its neighbours."""
    series: dict[tuple[int, str], list[int]] = {}
    for row in rows.tolist():
        series.setdefault((int(calls.inter[row]), calls.distribution[row]), []).append(row)
    tables = [Table.of(calls.tokens[at], calls.seconds[at]) for at in series.values()]
    return np.concatenate([table.left_out[table.inner] for table in tables])


def jump(calls: Calls, rows: NDArray[np.int64]) -> float | None:
    """Time just beyond as many tokens as experts over time just below, of the widest slice and evenest load."""
    widest = int(calls.inter[rows].max())
    kind = min({calls.distribution[row] for row in rows.tolist()})
    at = [row for row in rows.tolist() if calls.inter[row] == widest and calls.distribution[row] == kind]
    below = [row for row in at if calls.tokens[row] <= calls.experts[row]]
    above = [row for row in at if calls.tokens[row] > calls.experts[row]]
    if not below or not above:
        return None
    last = max(below, key=lambda row: int(calls.tokens[row]))
    first = min(above, key=lambda row: int(calls.tokens[row]))
    return float(calls.seconds[first] / calls.seconds[last])


def group_errors(group: Group, calls: Calls, shapes: NDArray[Any]) -> list[Row]:
    """Rows of one group: over all shapes, then each shape."""
    work = work_of(calls)
    start = {rule: first_start(group.gpu, group.precision, rule) for rule in ("", *RULES)}
    fits = {rule: fit_kernel(work, rule, start[rule]) for rule in ("", *RULES)}
    roofline, fine = fits[""], min((fits[rule] for rule in RULES), key=lambda kernel: kernel.loss)
    warm = {rule: kernel.values for rule, kernel in fits.items()}
    plain, near = _residuals(roofline, work), _residuals(fine, work)
    plain_carried, carried = np.empty(len(calls)), np.empty(len(calls))
    names = sorted(set(shapes.tolist()))
    for shape in names:
        out = shapes == shape
        rest, left = work.of(~out), work.of(out)
        plain_carried[out] = _residuals(fit_kernel(rest, "", warm[""]), left)
        carried[out] = _residuals(_best(rest, warm), left)

    def row(shape: str, at: NDArray[np.int64]) -> Row:
        between = _between(calls, at) if shape else np.concatenate(
            [_between(calls, np.flatnonzero(shapes == name)) for name in names])
        return Row(group, shape, len(at), Spread.of(plain[at]), Spread.of(plain_carried[at]), Spread.of(near[at]),
                   Spread.of(carried[at]), Spread.of(between) if len(between) else None, fine.rule,
                   tuple(fine.values.tolist()), jump(calls, at) if shape else None)

    return [row("", np.arange(len(calls))), *(row(shape, np.flatnonzero(shapes == shape)) for shape in names)]


def table_errors(site_packages: Path | None = None, *, gpus: Sequence[str] = tuple(GPUS), most_tp: int = 1,
                 precisions: Sequence[str] = tuple(WEIGHT_BYTES)) -> list[Row]:
    """Errors by GPU, kernel and precision, and by model shape; refuses in a sentence where the wheel is not installed.

    most_tp: 1 for whole experts; n for slices down to an n-th of their columns, too.
    """
    tables = grouped(read_tables(find_tables(site_packages), gpus), most_tp)
    return [row for group, (calls, shapes) in tables.items() if group.precision in precisions
            for row in group_errors(group, calls, shapes)]


def report(rows: Sequence[Row], *, by_shape: bool = False) -> str:
    """The rows as a Markdown table: groups, or the shapes of each."""
    head = ["GPU", "kernel", "precision", *(["shape"] if by_shape else []), "calls", "roofline", "carried", "grouped",
            "carried", "neighbours", *(["jump"] if by_shape else ["rule", "reached"])]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for row in rows:
        if bool(row.shape) != by_shape:
            continue
        gpu, framework, version, kernel, precision = row.group
        spreads = (row.roofline, row.roofline_carried, row.grouped, row.grouped_carried, row.between)
        jumped = "" if row.jump is None else f"{row.jump:.2f}"
        last = [jumped] if by_shape else [row.rule, "yes" if row.reached else "no"]
        lines.append(" | ".join([gpu.upper(), f"{framework} {version} `{kernel}`", precision,
                                 *([row.shape] if by_shape else []), str(row.calls), *map(_told, spreads), *last]))
    return "\n".join(f"| {line} |" for line in lines)


def _told(spread: Spread | None) -> str:
    """Median, p90 and largest, in per cent."""
    return "" if spread is None else f"{spread.p50:.1%} / {spread.p90:.0%} / {spread.max:.0%}".replace("%", "")
