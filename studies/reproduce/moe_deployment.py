"""arXiv 2303.06182: gating and characterisation, expert buffering, load balancing; every figure that is public."""

from studies.reproduce import moe_buffering, moe_gating
from studies.reproduce.measure import Measure

MEASURES: dict[str, Measure] = {**moe_gating.MEASURES, **moe_buffering.MEASURES}
