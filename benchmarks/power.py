"""Reads what a GPU draws while it idles and while it computes: the watts of configs/hardware/h200-host.yaml.

    python -m benchmarks.power        needs torch, a GPU and nvidia-smi, and takes a minute and a half

Experts of Mixtral's shape in bf16, forty of them in turn so that no cache holds any, over 1 to 2048 tokens; then a
square product. Each row: median, least and most watts over the last two thirds of 12 s; experts or products a second.
"""

import statistics
import subprocess
import threading
import time
from collections.abc import Callable

D_MODEL, D_FF, EXPERTS, SQUARE, PRODUCTS = 4096, 14336, 40, 8192, 20
TOKENS = (1, 16, 256, 2048)
SECONDS, EVERY_S = 12.0, 0.25


def watts() -> float:
    """What the first GPU draws now."""
    asked = ["nvidia-smi", "--query-gpu=power.draw.instant", "--format=csv,noheader,nounits"]
    return float(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[0])


def row(name: str, work: Callable[[], int]) -> None:
    """Do the work over and over; print what is drawn meanwhile, and how much of it is done in a second."""
    found: list[float] = []
    over = threading.Event()

    def read() -> None:
        while not over.wait(EVERY_S):
            found.append(watts())

    reader = threading.Thread(target=read)
    reader.start()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        done += work()
    a_second = done / (time.perf_counter() - began)
    over.set()
    reader.join()
    late = found[len(found) // 3:]
    print(f"{name}: {statistics.median(late):.1f} W ({min(late):.1f} to {max(late):.1f}, {len(late)} readings), "
          f"{a_second:.4g}/s", flush=True)


def rest() -> int:
    time.sleep(EVERY_S)
    return 0


def main() -> None:
    """All rows."""
    import torch

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

    weights = [(random(D_FF, D_MODEL), random(D_FF, D_MODEL), random(D_FF, D_MODEL)) for _ in range(EXPERTS)]
    torch.cuda.synchronize()
    row("idle, a context open", rest)
    for tokens in TOKENS:
        x = random(tokens, D_MODEL)

        def experts(x: torch.Tensor = x) -> int:
            for gate, up, down in weights:
                _ = (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down
            torch.cuda.synchronize()
            return EXPERTS

        experts()
        row(f"experts over {tokens} tokens", experts)
    square = random(SQUARE, SQUARE)

    def products() -> int:
        for _ in range(PRODUCTS):
            _ = square @ square
        torch.cuda.synchronize()
        return PRODUCTS

    products()
    row(f"products of {SQUARE}", products)


if __name__ == "__main__":
    main()
