"""The engines by name. Only the engine that is asked for is imported."""

from collections.abc import Sequence

from emulation.engine.contract import Describe, Engine
from emulation.errors import ConfigError, unknown
from emulation.extras import installed
from emulation.ops import Lane, Pool

ENGINES = ("compiled", "spec")
DEFAULT = "compiled"


def make_engine(name: str, lanes: Sequence[Lane], pools: Sequence[Pool] = (),
                describe: Describe = "op {}".format) -> Engine:
    """An engine: `compiled`, or the slow and readable `spec`, which gives the same spans and needs no numba."""
    if name == "spec":
        from emulation.engine.spec import SpecEngine
        return SpecEngine(lanes, pools, describe)
    if name == "compiled":
        warm()
        from emulation.engine.compiled import CompiledEngine
        return CompiledEngine(lanes, pools, describe)
    if name == "straight":
        from emulation.engine.straight import StraightEngine
        return StraightEngine(lanes, pools, describe)
    raise ConfigError(unknown("engine", name, ENGINES))


def check_numba() -> None:
    """Refuse, in a sentence, to go on without numba's compiler."""
    if not installed("numba"):
        raise ConfigError("engine: compiled needs numba: pip install 'moelab[core]', or choose engine: spec, which "
                          "gives the same spans slowly")
    import numba

    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        raise ConfigError("engine 'compiled' needs numba's compiler, which NUMBA_DISABLE_JIT turns off: unset it, or "
                          "choose engine 'spec', which gives the same spans slowly")


def warm() -> None:
    """Compile the compiled engine's kernels, or load them: set-up calls this, so that no first run pays for it."""
    check_numba()
    import emulation.engine.compiled  # noqa: F401
