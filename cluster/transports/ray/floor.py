"""What Ray itself takes, to set beside what a run takes."""

import time
from typing import Any

from cluster.transports.ray.cluster import cluster, options


def floor(actors: int) -> dict[str, float]:
    """What Ray itself takes: start, that many actors that only import torch, shutdown; seconds."""
    begin = time.perf_counter()
    with cluster():
        import ray

        started = time.perf_counter()
        remote: Any = ray.remote(_Bare)
        bare = [remote.options(**options()).remote() for _ in range(actors)]
        ray.get([actor.ready.remote() for actor in bare])
        ready = time.perf_counter()
    return {"init_s": started - begin, "actors_s": ready - started, "shutdown_s": time.perf_counter() - ready}


class _Bare:
    def ready(self) -> int:
        import torch

        return torch.get_num_threads()
