"""FSE-DP on 2x2 chiplets: micro-slices stream around the ring c0, c1, c2, c3 through buffers of two slots."""

import pytest

from emulation.errors import DeadlockError
from emulation.ops import Lane

RING = 4


def chiplets(board):
    return board([*(Lane(f"ddr{c}", in_order=True) for c in range(RING)), *(f"pe{c}" for c in range(RING)),
                  *(f"d2d{c}" for c in range(RING))], {f"buf{c}": 2 for c in range(RING)})


def stream(b, name, entry, *, load_ps, comp_ps, hop_ps, needs=2, hop_after="start", release_at="start"):
    """One slice that enters at chiplet `entry`; comp_ps by chiplet of the ring."""
    b.op(f"{name}.load", {f"ddr{entry}": load_ps}, takes=[(f"buf{entry}", needs, 1)])
    here = f"{name}.load"
    for j in range(RING):
        c = (entry + j) % RING
        b.op(f"{name}.comp{j}", {f"pe{c}": comp_ps[c]}, after=[here])
        if j == RING - 1:
            b.release(here, after=[f"{name}.comp{j}"])
            return
        started = f"{name}.comp{j}:start" if hop_after == "start" else f"{name}.comp{j}"
        b.op(f"{name}.hop{j}", {f"d2d{c}": hop_ps}, after=[here, started], takes=[(f"buf{(c + 1) % RING}", 1, 1)])
        gone = f"{name}.hop{j}:start" if release_at == "start" else f"{name}.hop{j}"
        b.release(here, after=[f"{name}.comp{j}", gone])
        here = f"{name}.hop{j}"


# load 10, comp 10 (20 on c1, which has two tokens), hop 20. Three slices s0, s1, s2 enter at c0.
# A load needs both slots of c0, so it starts when the slice before has left: `left` = max(comp0 end, hop0 edge).
#
# hop after the START of comp, slot free at the START of the hop (as published)
#   s0  load 0-10  comp0 10-20 hop0 10-30  left 20  comp1 30-50 hop1 30-50  comp2 50-60 hop2 50-70  comp3 70-80
#   s1  load 20-30 comp0 30-40 hop0 30-50  left 40  comp1 50-70 hop1 50-70  comp2 70-80 hop2 70-90  comp3 90-100
#   s2  load 40-50: all 20 later than s1                                                            comp3 110-120
# slot free at the END of the hop (physical)
#   s0  the same, but left 30: s1 load 30-40 comp0 40-50 hop0 40-60, left 60: 30 later than s0; s2 30 later still
# hop after the END of comp, slot free at its START
#   s0  load 0-10  comp0 10-20 hop0 20-40  left 20  comp1 40-60 hop1 60-80  comp2 80-90 hop2 90-110 comp3 110-120
#   s1  20 later (load 20, hop0 waits for the link until 40, comp1 for c1 until 60); s2 20 later still
# hop after the END of comp, slot free at its END
#   s0  the same, but left 40: s1 40 later; s2 40 later still
OVERLAPPED = {"load": (0, 10), "comp0": (10, 20), "hop0": (10, 30), "comp1": (30, 50), "hop1": (30, 50),
              "comp2": (50, 60), "hop2": (50, 70), "comp3": (70, 80)}
SERIAL = {"load": (0, 10), "comp0": (10, 20), "hop0": (20, 40), "comp1": (40, 60), "hop1": (60, 80),
          "comp2": (80, 90), "hop2": (90, 110), "comp3": (110, 120)}


@pytest.mark.parametrize(("hop_after", "release_at", "first", "later_ps", "makespan_ps"), [
    ("start", "start", OVERLAPPED, 20, 120),
    ("start", "end", OVERLAPPED, 30, 140),
    ("end", "start", SERIAL, 20, 160),
    ("end", "end", SERIAL, 40, 200),
])
def test_both_edges_set_the_makespan(board, hop_after, release_at, first, later_ps, makespan_ps):
    b = chiplets(board)
    for s in range(3):
        stream(b, f"s{s}", 0, load_ps=10, comp_ps=[10, 20, 10, 10], hop_ps=20,
               hop_after=hop_after, release_at=release_at)
    b.run()
    assert b.times() == {f"s{s}.{name}": (start + s * later_ps, end + s * later_ps)
                         for s in range(3) for name, (start, end) in first.items()}
    assert b.engine.now_ps == makespan_ps
    assert [b.engine.free(pool) for pool in range(RING)] == [2] * RING


def two_slices_on_each_channel(board, needs):
    b = chiplets(board)
    for k in range(2):
        for c in range(RING):
            stream(b, f"{'abcd'[c]}{k}", c, load_ps=10, comp_ps=[10] * RING, hop_ps=10, needs=needs)
    return b


def test_one_slot_admission_deadlocks_with_the_chain(board):
    # 0-10  a0..d0 load, one slot of each chiplet.
    # 10    a1..d1 are next in their channels and take the second slots; hop0 of a0..d0 becomes ready in the same
    #       instant, by the start of comp0, and finds no slot. 20: all computed; every slot waits for the hop that
    #       would leave it, every hop for a slot of the next chiplet.
    b = two_slices_on_each_channel(board, needs=1)
    with pytest.raises(DeadlockError) as stuck:
        b.run()
    assert b.engine.now_ps == 20 + 10  # a1's compute follows a0's
    assert str(stuck.value) == (
        "nothing is in flight and nothing can start: "
        "a0.hop0 waits for 1 free of pool 'buf1' (0 of 2 are free; held by b0.load, b1.load, "
        "until the start of b0.hop0); "
        "b0.hop0 waits for 1 free of pool 'buf2' (0 of 2 are free; held by c0.load, c1.load, "
        "until the start of c0.hop0); "
        "c0.hop0 waits for 1 free of pool 'buf3' (0 of 2 are free; held by d0.load, d1.load, "
        "until the start of d0.hop0); "
        "d0.hop0 waits for 1 free of pool 'buf0' (0 of 2 are free; held by a0.load, a1.load, "
        "until the start of a0.hop0)")


def test_two_slot_admission_runs(board):
    # every chiplet alike, k = 0: load 0-10, comp0 and hop0 10-20, comp1 and hop1 20-30, comp2 and hop2 30-40,
    # comp3 40-50. Until 50 each chiplet holds a slice (its own, then that of a neighbour): never two slots free.
    # At 50 both are: k = 1 does the same 50 later.
    b = two_slices_on_each_channel(board, needs=2)
    b.run()
    one = {"load": (0, 10), "comp0": (10, 20), "hop0": (10, 20), "comp1": (20, 30), "hop1": (20, 30),
           "comp2": (30, 40), "hop2": (30, 40), "comp3": (40, 50)}
    assert b.times() == {f"{c}{k}.{name}": (start + 50 * k, end + 50 * k)
                         for k in range(2) for c in "abcd" for name, (start, end) in one.items()}
    assert [b.engine.free(pool) for pool in range(RING)] == [2] * RING
