"""One token through one layer of Mixtral-8x7B on the edge GPU with four DIMMs, every time worked out by hand.

The constants are those of configs/hardware/edge-gpu-ndp.yaml and configs/model/mixtral-8x7b.json; bf16 is 2 bytes.
"""

from pathlib import Path

import numpy as np
import yaml

import moelab
from emulation.lowering.emit import KINDS
from emulation.trace import Trace
from workloads.traces import write_trace

US = 10**6
NS = 10**3

# mixtral-8x7b.json: hidden 4096, 32 heads and 8 key-value heads of 128, experts of 3 matrices 4096 x 14336,
# 8 experts in a layer, a vocabulary of 32000.
D, FF, VOCAB, ROW_B = 4096, 14336, 32000, 4096 * 2

# The GPU: 5 us a kernel, 960 GB/s, 113 TFLOP/s. Every kernel below is bound by its bytes:
# bytes / 960e9 B/s = bytes * 1000 / 960 ps, rounded up.
ATTENTION_WEIGHTS = 4096 * 4096 + 2 * 4096 * 1024 + 4096 * 4096  # queries, keys and values, output
ATTENTION_B = (
    (ATTENTION_WEIGHTS + 2 * 4096) * 2  # with the two norms' weights
    + (2 * 4096 + 2 * 4096 + 2 * 1024) * 2  # hidden in and out, queries and heads, key and value
    + 2 * 1024 * 2)  # one position of the cache
ATTENTION = 5 * US + 87_441_067  # 83_943_424 B
NORM = 5 * US + 17_067  # 16_384 B: a row in, a row out
ROUTER = 5 * US + 76_817  # 4096 x 8 weights, a row in, 8 logits out: 73_744 B
REDUCE = 5 * US + 25_600  # three rows: a sum in, a part in, the sum out: 24_576 B
HEAD = 5 * US + 273_150_400  # 32000 x 4096 weights and a norm, a row in, 32000 logits out: 262_224_384 B

# A DIMM: 1 us a kernel, 102.4 GB/s, 0.256 TMAC/s = 0.512 TFLOP/s. 352_321_536 B of weights, a row in and out and two
# inner rows of 14336 are 352_395_264 B: 3441.36 us. Its 352_321_536 flops take 688 us.
EXPERT = 1 * US + 3_441_360_000

# A row of 8192 B: 128 ns on PCIe (64 GB/s) and 320 ns on a DIMM's channel (25.6 GB/s), cut through. It arrives after
# the slower of both and the latencies of both, 1 us and 0.1 us; PCIe is free for the next after its own 128 ns.
PCIE = 128 * NS
MESSAGE = 320 * NS + 1 * US + 100 * NS


def spans(tmp_path: Path, experts: list[int]) -> dict[str, list[tuple[int, int]]]:
    """The operations of a run of one token that visits these experts: kind -> (start, end)."""
    picked = np.array(experts, np.uint16).reshape(1, 1, 2)
    write_trace(tmp_path / "one.npz", Trace("mixtral", 8, np.arange(1), picked, np.full(picked.shape, 0.5, np.float32),
                                            *(np.zeros(1, np.int32) for _ in range(4))))
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({
        "machine": "edge-gpu-ndp", "model": {"name": "mixtral-8x7b", "layers": 1}, "policy": "expert_parallel",
        "workload": {"work": "replay", "trace": "./one.npz"}}))
    result = moelab.run(tmp_path / "one.yaml")
    flight = result._flight
    assert flight is not None
    assert result.makespan_ps == result.horizon_ps == int(flight.end_ps.max())
    out: dict[str, list[tuple[int, int]]] = {}
    for kind, start, end in zip(flight.labels.kind.tolist(), flight.start_ps.tolist(), flight.end_ps.tolist(),
                                strict=True):
        out.setdefault(KINDS[kind], []).append((start, end))
    return out


def test_the_bytes_behind_the_times() -> None:
    gpu, dimm = 960 * 10**9, 102_400_000_000
    for time, bytes_ in ((ATTENTION, ATTENTION_B), (NORM, 2 * ROW_B), (ROUTER, D * 8 * 2 + (D + 8) * 2),
                         (REDUCE, 3 * ROW_B), (HEAD, (VOCAB * D + D) * 2 + (D + VOCAB) * 2)):
        assert time == 5 * US - (-bytes_ * 10**12 // gpu)
    assert 1 * US - (-(3 * D * FF + 2 * D + 2 * FF) * 2 * 10**12 // dimm) == EXPERT
    assert 2 * 3 * D * FF * 10**12 // 512_000_000_000 < EXPERT


def test_two_experts_on_two_dimms(tmp_path: Path) -> None:
    # Experts 1 and 6 rest on DIMMs 0 and 3 (expert e on DIMM e // 2).
    decided = ATTENTION + NORM + ROUTER
    first = decided + MESSAGE
    second = decided + PCIE + MESSAGE  # its row leaves when PCIe has carried the first one's
    back = first + EXPERT + MESSAGE
    later = second + EXPERT + MESSAGE  # PCIe is free again when it comes, 128 ns behind
    summed = back + 2 * REDUCE  # the second waits for the GPU
    assert spans(tmp_path, [1, 6]) == {
        "attention": [(0, ATTENTION)],
        "norm": [(ATTENTION, ATTENTION + NORM), (summed, summed + NORM)],
        "router": [(ATTENTION + NORM, decided)],
        "copy": [(decided, first), (decided + PCIE, second), (first + EXPERT, back), (second + EXPERT, later)],
        "expert": [(first, first + EXPERT), (second, second + EXPERT)],
        "reduce": [(back, back + REDUCE), (back + REDUCE, summed)],
        "head": [(summed + NORM, summed + NORM + HEAD)]}


def test_two_experts_on_one_dimm(tmp_path: Path) -> None:
    # Experts 2 and 3 rest on DIMM 1: one row there, one after the other, one sum back.
    decided = ATTENTION + NORM + ROUTER
    there = decided + MESSAGE
    done = there + 2 * EXPERT
    back = done + MESSAGE
    summed = back + REDUCE
    assert spans(tmp_path, [2, 3]) == {
        "attention": [(0, ATTENTION)],
        "norm": [(ATTENTION, ATTENTION + NORM), (summed, summed + NORM)],
        "router": [(ATTENTION + NORM, decided)],
        "copy": [(decided, there), (done, back)],
        "expert": [(there, there + EXPERT), (there + EXPERT, done)],
        "reduce": [(back, summed)],
        "head": [(summed + NORM, summed + NORM + HEAD)]}
