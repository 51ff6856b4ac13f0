"""One arithmetic for every process: the same operands give the same bits wherever they are multiplied.

MKL_CBWR=AVX2,STRICT makes a row of a fp32 product independent of the other rows, of the run of columns it is
computed with, of strides and of alignment; without STRICT the first two change the bits. So an expert gives one
token the same bits in any batch, any shard and any process. oneDNN's bf16 products do not promise that: expert math
is done in fp32 (see moe.experts). MKL reads the variable once, at the process's first product.
"""

import os
from pathlib import Path

from emulation.errors import ConfigError
from moe.lean import import_torch

MKL_MODE = "AVX2,STRICT"
ENVIRONMENT = {
    "MKL_CBWR": MKL_MODE,
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MKL_DYNAMIC": "FALSE",
    "TOKENIZERS_PARALLELISM": "false",
}


def pin() -> bool:
    """Set environment and torch to one thread and one arithmetic; call it first in every process that computes.

    True where a token's bits then depend on neither batch nor shard (Intel). Elsewhere MKL ignores STRICT and False
    comes back: results still repeat for the same config, and only the equality of whole and split weakens. On Intel
    a process that multiplied before is refused, as its bits would differ from its neighbours'.
    """
    os.environ.update(ENVIRONMENT)
    import_torch()
    import torch

    torch.set_num_threads(1)
    pinned = is_pinned()
    if not pinned and _intel():
        raise ConfigError(
            "this process multiplied before its arithmetic was pinned: call moe.determinism.pin() before the first "
            f"product, or start the process with MKL_CBWR={MKL_MODE}"
        )
    return pinned


def is_pinned() -> bool:
    """Whether fp32 products here do not depend on their batch and shard, tried on shapes that show it otherwise."""
    import torch

    if torch.get_num_threads() != 1:
        return False
    source = torch.Generator().manual_seed(0)
    for rows, width, depth in ((33, 74, 48), (8, 1000, 64), (5, 256, 256)):
        tokens = torch.randn(rows, depth, generator=source)
        weight = torch.randn(width, depth, generator=source)
        whole = torch.nn.functional.linear(tokens, weight)
        if not torch.equal(torch.nn.functional.linear(tokens[:1], weight[3:-5]), whole[:1, 3:-5]):
            return False
    return True


def _intel() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and "GenuineIntel" in cpuinfo.read_text(encoding="utf-8", errors="replace")
