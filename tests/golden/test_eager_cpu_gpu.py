"""The eager CPU-GPU engine: one host thread issues into streams, waits in events, decides after a synchronisation."""

from emulation.ops import DEMAND, PREFETCH, Lane

ISSUE_PS = 2


def issue(b, name, **edges):
    """The host thread spends its time on every call, in program order."""
    b.op(f"issue_{name}", {"host": ISSUE_PS}, **edges)


def kernel(b, name, ps, *, events=()):
    issue(b, name)
    b.op(name, {"stream": ps, "sm": ps}, after=[f"issue_{name}", *events])


def copy(b, name, ps, *, last_use=(), priority=DEMAND):
    issue(b, name)
    b.op(name, {"copy_stream": ps, "h2d": ps}, after=[f"issue_{name}", *last_use], priority=priority)


def sync(b, name, kernel):
    """The host returns when the kernel has ended: the decision op."""
    b.op(name, {"host": 1}, after=[kernel])


def test_two_layers(board):
    # Written before layer 0: attention and router.
    #   host   |issue 0-2|issue 2-4|            |sync0 17-18|       sync0 is the decision op of layer 0
    #   stream      |attn 2 ...... 12|router 12-17|                 router was issued at 4: in-order
    # Layer 0, decided at 18: e1 resident, e2 copied over the victim e0 (last used before), e3 on a CPU worker; then
    # a prefetch of e5 for layer 1 over e1, and the next attention and router.
    #   host   |copy2 18-20|job 20-22|e1 22-24|e2 24-26|combine 26-28|copy5 28-30|attn1 30-32|router1 32-34|
    #                                                                                               sync1 88-89
    #   worker                        |job 22 ...... 52|
    #   copies             |copy2 20 ............... 60|copy5 60 .............................. 100|
    #   stream                               |e1 24-34|      |e2 60-70|combine 70-73|attn1 73-83|router1 83-88|
    # Layer 1, decided at 89, while copy5 runs: e5 coming, e6 a miss. Its copy is demand, but the copy stream is
    # in-order: behind copy5.
    #   host   |copy6 89-91|e5 91-93|e6 93-95|             |sync2 150-151|
    #   copies ...copy5 100|copy6 100 .......... 140|
    #   stream             |e5 100-110|             |e6 140-150|
    b = board([Lane("host", in_order=True), Lane("stream", in_order=True), "sm", Lane("copy_stream", in_order=True),
               "h2d", "worker", "cores"])
    kernel(b, "attn0", 10)
    kernel(b, "router0", 5)
    sync(b, "sync0", "router0")
    assert b.run("sync0") == ["sync0"]
    assert b.engine.now_ps == 18

    copy(b, "copy2", 40)
    issue(b, "job")
    b.op("job", {"worker": 30, "cores": 30}, after=["issue_job"])
    kernel(b, "e1", 10)
    kernel(b, "e2", 10, events=["copy2"])
    kernel(b, "combine0", 3, events=["job"])
    copy(b, "copy5", 40, last_use=["e1"], priority=PREFETCH)
    kernel(b, "attn1", 10)
    kernel(b, "router1", 5)
    sync(b, "sync1", "router1")
    assert b.run("sync1") == ["sync1"]
    assert b.engine.now_ps == 89
    assert b.times()["copy5"] == (60, -1)

    copy(b, "copy6", 40, last_use=["e2"])
    kernel(b, "e5", 10, events=["copy5"])
    kernel(b, "e6", 10, events=["copy6"])
    sync(b, "sync2", "e6")
    assert b.run("sync2") == ["sync2"]
    assert b.times() == {
        "issue_attn0": (0, 2), "attn0": (2, 12), "issue_router0": (2, 4), "router0": (12, 17), "sync0": (17, 18),
        "issue_copy2": (18, 20), "copy2": (20, 60), "issue_job": (20, 22), "job": (22, 52),
        "issue_e1": (22, 24), "e1": (24, 34), "issue_e2": (24, 26), "e2": (60, 70),
        "issue_combine0": (26, 28), "combine0": (70, 73), "issue_copy5": (28, 30), "copy5": (60, 100),
        "issue_attn1": (30, 32), "attn1": (73, 83), "issue_router1": (32, 34), "router1": (83, 88), "sync1": (88, 89),
        "issue_copy6": (89, 91), "copy6": (100, 140), "issue_e5": (91, 93), "e5": (100, 110),
        "issue_e6": (93, 95), "e6": (140, 150), "sync2": (150, 151)}


def test_eviction_waits_for_the_last_use_of_an_earlier_plan(board):
    # host   |issue_kern 0-2|issue_copy 2-4|      the first plan ends with issue_kern; its kernel uses the victim on
    # stream                |kern 2 ........ 52|
    # copies                                   |copy 52-72|
    b = board([Lane("host", in_order=True), Lane("stream", in_order=True), "sm", Lane("copy_stream", in_order=True),
               "h2d"])
    kernel(b, "kern", 50)
    assert b.run("issue_kern") == ["issue_kern"]
    copy(b, "copy", 20, last_use=["kern"])
    b.run()
    assert b.times() == {"issue_kern": (0, 2), "kern": (2, 52), "issue_copy": (2, 4), "copy": (52, 72)}
