"""What `import moelab` gives."""

import subprocess
import sys

import pytest

import moelab
from emulation.errors import ConfigError

SMALL = ["transport=local", "workload.requests=1", "workload.output_tokens=2"]


def test_every_name_is_there_and_no_other() -> None:
    for name in moelab.__all__:
        assert getattr(moelab, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Polcy'"):
        getattr(moelab, "Pol" + "cy")


def test_importing_it_loads_neither_torch_nor_ray() -> None:
    code = "import moelab, sys; print([m for m in ('torch', 'ray', 'transformers', 'numba') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "[]"


def test_run_and_compare_give_results() -> None:
    result = moelab.run("demo", SMALL)
    results = moelab.compare("demo", SMALL)
    assert list(results) == ["expert_parallel", "tensor_parallel"]
    assert results["expert_parallel"].digest == result.digest
    assert len(result.to_pandas()) > 0


def test_settings_for_a_loaded_run_are_refused() -> None:
    with pytest.raises(ConfigError, match="loaded already"):
        moelab.run(moelab.load("demo", SMALL), ["seed=3"])
