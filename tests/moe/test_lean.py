"""What a host imports to run a model, and what it leaves as it was."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
import {first}
print(sorted(m for m in ("torch._dynamo", "torch.distributed.tensor", "sympy") if m in sys.modules))
import torch, torch._dynamo
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex
print(isinstance(TransformGetItemToIndex, type), torch._dynamo.config is not None, torch.distributed.is_available())
print(callable(torch._dynamo.allow_in_graph(len)))
"""


@pytest.mark.parametrize("first", ["moe.shell", "moe.hook"])
def test_a_host_starts_without_the_compiler_and_gets_the_real_one_when_it_asks(first: str) -> None:
    told = subprocess.run([sys.executable, "-c", CODE.format(first=first)], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == ["[]", "True True True", "True"]


def test_transformers_that_is_there_already_is_left_alone() -> None:
    code = "import transformers.modeling_utils, torch._dynamo as d, moe.hook, sys\n"
    code += "print(sys.modules['torch._dynamo'] is d)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "True"


def test_ctrl_c_waits_until_torch_is_there(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhole = True\n")
    script = ("import sys\nfrom moe.lean import import_torch\n"
              "try:\n    import_torch()\nexcept KeyboardInterrupt:\n    print(sys.modules['torch'].whole)\n")
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(tmp_path)},
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "True\n", done.stderr
