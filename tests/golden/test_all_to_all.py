"""An all-to-all over four devices is one operation: egress of i for its row, ingress of j for its column."""

TOKENS = [[0, 3, 2, 1],  # row sums, diagonal 0:  6
          [4, 0, 1, 0],  #                        5
          [0, 5, 0, 5],  #                       10
          [2, 2, 2, 0]]  #                        6
#          6 10  5  6      column sums
PS_PER_TOKEN = 10
FFN_PS = [40, 20, 30, 10]


def exchange(tokens):
    rows = {f"out{i}": PS_PER_TOKEN * sum(tokens[i]) for i in range(4)}
    return {**rows, **{f"in{j}": PS_PER_TOKEN * sum(row[j] for row in tokens) for j in range(4)}}


def test_dispatch_expert_combine(board):
    # out0 |dispatch 0-60|            in0 |0-60|       The exchange ends with its longest hold, 100 (out2 and in1).
    # out1 |0-50|late 50-70|          in1 |0-100|      Each lane is free after its own sum: `late` (device 1 to 2) goes
    # out2 |0-100|                    in2 |0-50|late|  at 50, `blocked` (0 to 1) waits for in1 until 100.
    # out3 |0-60|                     in3 |0-60|
    # gpu0..3: ffn from 100 to 140, 120, 130, 110.
    # combine, the transposed exchange, waits for all: 140-240 (in2 and out1 hold it for 100).
    b = board([f"{name}{d}" for name in ("gpu", "out", "in") for d in range(4)])
    b.op("dispatch", exchange(TOKENS))
    b.op("late", {"out1": 20, "in2": 20})
    b.op("blocked", {"out0": 20, "in1": 20})
    for d in range(4):
        b.op(f"ffn{d}", {f"gpu{d}": FFN_PS[d]}, after=["dispatch"])
    b.op("combine", exchange([list(column) for column in zip(*TOKENS, strict=True)]),
         after=[f"ffn{d}" for d in range(4)])
    for d in range(4):
        b.op(f"norm{d}", {f"gpu{d}": 1}, after=["combine"])
    b.run()
    assert b.times() == {
        "dispatch": (0, 100), "late": (50, 70), "blocked": (100, 120),
        "ffn0": (100, 140), "ffn1": (100, 120), "ffn2": (100, 130), "ffn3": (100, 110),
        "combine": (140, 240), **{f"norm{d}": (240, 241) for d in range(4)}}
    rows = zip(*(column.tolist() for column in b.engine.occupancy()), strict=True)
    held = {(lane, op): to - since for lane, op, since, to in rows}
    assert [held[b.lane[f"out{d}"], b.serial["dispatch"]] for d in range(4)] == [60, 50, 100, 60]
    assert [held[b.lane[f"in{d}"], b.serial["dispatch"]] for d in range(4)] == [60, 100, 50, 60]
    assert [held[b.lane[f"out{d}"], b.serial["combine"]] for d in range(4)] == [60, 100, 50, 60]
