"""DAOP, decode: some experts live on the CPU; a forecast starts them one layer early, from that layer's input."""


def decode(b, layer):
    """The plan before a layer is known: attention and gate, whose end is the decision op."""
    b.op(f"gate{layer}", {"gpu": 10}, after=[f"combine{layer - 1}"] if layer else [])


def send_down(b, layer):
    """The layer's input goes to the host."""
    b.op(f"down{layer}", {"d2h": 5}, after=[f"gate{layer}"])


def cpu_expert(b, layer, given):
    """An expert of `layer` on the CPU worker, from the input of layer `given`."""
    b.op(f"cpu{layer}", {"worker": 50}, after=[f"down{given}"])
    b.op(f"up{layer}", {"h2d": 5}, after=[f"cpu{layer}"])


def gpu_part(b, layer):
    b.op(f"ffn{layer}", {"gpu": 20}, after=[f"gate{layer}"])
    b.op(f"combine{layer}", {"gpu": 3}, after=[f"ffn{layer}", f"up{layer}"])


def test_forecast_served_one_layer_later(board):
    # gpu    |gate0 10|ffn0 30|  |combine0 70-73|gate1 83|ffn1 103|   |combine1 120-123|gate2 133|ffn2 153|
    # d2h              |down0 10-15|                      |down1 83-88|
    # worker                |cpu0 15 ........ 65|cpu1 65 ......... 115|cpu2 115 ........................ 165|
    # h2d                                       |up0 65-70|           |up1 115-120|                        |up2 165-170|
    # gpu                                                                                       |combine2 170-173|
    # Layer 0 has no forecast. cpu1 runs from layer 0's input (down0), cpu2 from layer 1's (down1), each submitted a
    # layer before the gate that uses it; cpu2 is ready at 88 and waits for the worker.
    b = board(["gpu", "d2h", "h2d", "worker"])
    decode(b, 0)
    assert b.run("gate0") == ["gate0"]
    send_down(b, 0)
    cpu_expert(b, 0, given=0)
    gpu_part(b, 0)
    cpu_expert(b, 1, given=0)
    decode(b, 1)
    assert b.run("gate1") == ["gate1"]
    assert b.engine.now_ps == 83
    send_down(b, 1)
    gpu_part(b, 1)
    cpu_expert(b, 2, given=1)
    decode(b, 2)
    assert b.run("gate2") == ["gate2"]
    assert b.engine.now_ps == 133
    gpu_part(b, 2)
    b.run()
    assert b.times() == {
        "gate0": (0, 10), "down0": (10, 15), "cpu0": (15, 65), "up0": (65, 70), "ffn0": (10, 30), "combine0": (70, 73),
        "cpu1": (65, 115), "up1": (115, 120), "gate1": (73, 83), "down1": (83, 88), "ffn1": (83, 103),
        "combine1": (120, 123), "cpu2": (115, 165), "up2": (165, 170), "gate2": (123, 133), "ffn2": (133, 153),
        "combine2": (170, 173)}


def test_without_forecast_the_worker_waits_for_each_gate(board):
    # a layer = gate 10, down 5, cpu 50, up 5, combine 3 = 73 (ffn 20 hides beside the worker); three layers = 219
    b = board(["gpu", "d2h", "h2d", "worker"])
    for layer in range(3):
        decode(b, layer)
        assert b.run(f"gate{layer}") == [f"gate{layer}"]
        assert b.engine.now_ps == 73 * layer + 10
        send_down(b, layer)
        cpu_expert(b, layer, given=layer)
        gpu_part(b, layer)
    b.run()
    one = {"gate": (0, 10), "down": (10, 15), "cpu": (15, 65), "up": (65, 70), "ffn": (10, 30), "combine": (70, 73)}
    assert b.times() == {f"{name}{layer}": (start + 73 * layer, end + 73 * layer)
                         for layer in range(3) for name, (start, end) in one.items()}
