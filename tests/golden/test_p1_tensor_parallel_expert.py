"""P1: one expert sharded over three NDP units; its input is sent to all, the partial sums are added in unit order."""

import pytest

from emulation.shards import slice_bounds

PS_PER_COLUMN = 10
COLUMNS = slice_bounds(10, 3)
SHARD_PS = [(hi - lo) * PS_PER_COLUMN for lo, hi in COLUMNS]


def test_shards_of_ten_columns_over_three_units():
    assert COLUMNS == ((0, 4), (4, 7), (7, 10))
    assert SHARD_PS == [40, 30, 30]


def reduction(b):
    """Partial sums are added on the GPU in unit order, whatever the order they arrive in."""
    b.op("add0", {"gpu": 5}, after=["back0"])
    b.op("add1", {"gpu": 5}, after=["back1", "add0"])
    b.op("add2", {"gpu": 5}, after=["back2", "add1"])


@pytest.mark.parametrize("gpu_expert_ps", [0, 60])
def test_broadcast_over_a_shared_bus(board, gpu_expert_ps):
    # bus   |bcast 8|            ...            |back1 38-44|back2 44-50|back0 50-56|
    # ndp0          |ffn0 8 ............................ 48|
    # ndp1          |ffn1 8 ............ 38|
    # ndp2          |ffn2 8 ............ 38|
    # gpu                                                                add0 56-61, add1 -66, add2 -71
    # back0 (ready 48) goes behind back2 (ready 38): the bus takes them by ready time.
    # With an expert of its own until 60 the GPU adds from 60: 65, 70, 75.
    b = board(["gpu", "bus", "ndp0", "ndp1", "ndp2"])
    b.op("gpu_ffn", {"gpu": gpu_expert_ps})
    b.op("bcast", {"bus": 8})
    for d in range(3):
        b.op(f"ffn{d}", {f"ndp{d}": SHARD_PS[d]}, after=["bcast"])
    for d in range(3):
        b.op(f"back{d}", {"bus": 6}, after=[f"ffn{d}"])
    reduction(b)
    b.run()
    first_add_ps = 60 if gpu_expert_ps else 56
    assert b.times() == {
        "gpu_ffn": (0, gpu_expert_ps), "bcast": (0, 8),
        "ffn0": (8, 48), "ffn1": (8, 38), "ffn2": (8, 38),
        "back0": (50, 56), "back1": (38, 44), "back2": (44, 50),
        "add0": (first_add_ps, first_add_ps + 5), "add1": (first_add_ps + 5, first_add_ps + 10),
        "add2": (first_add_ps + 10, first_add_ps + 15)}
    assert b.engine.now_ps == first_add_ps + 15


def test_unicast_over_a_link_to_each_unit(board):
    # gpu.out |send0 8|send1 16|send2 24|                  each unicast also holds its unit's own link
    # ndp0            |ffn0 8 .......................... 48|
    # ndp1                     |ffn1 16 ............ 46|
    # ndp2                              |ffn2 24 .............. 54|
    # gpu.in                                           |back1 46-52|back0 52-58|back2 58-64|
    # gpu                                                          add0 58-63, add1 63-68, add2 68-73
    b = board(["gpu", "gpu.out", "gpu.in", *(f"{name}{d}" for d in range(3) for name in ("to", "from", "ndp"))])
    for d in range(3):
        b.op(f"send{d}", {"gpu.out": 8, f"to{d}": 8})
    for d in range(3):
        b.op(f"ffn{d}", {f"ndp{d}": SHARD_PS[d]}, after=[f"send{d}"])
    for d in range(3):
        b.op(f"back{d}", {f"from{d}": 6, "gpu.in": 6}, after=[f"ffn{d}"])
    reduction(b)
    b.run()
    assert b.times() == {
        "send0": (0, 8), "send1": (8, 16), "send2": (16, 24),
        "ffn0": (8, 48), "ffn1": (16, 46), "ffn2": (24, 54),
        "back0": (52, 58), "back1": (46, 52), "back2": (58, 64),
        "add0": (58, 63), "add1": (63, 68), "add2": (68, 73)}
