"""Action times of a frame-driven simulator: whole frames, with floors, by its own count of what moves and multiplies.

A hardware file that has `actions` is read literally: the expert kernel, loads, hops of streams and token messages last
what these say, in place of the roofline and of bytes over bandwidth. All else stays physical.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from emulation.model import Model
from emulation.units import PS_PER_S

if TYPE_CHECKING:
    from emulation.machine import Kernel


class Action(NamedTuple):
    """least: frames that it lasts at least. matrices: of an expert's, how many it counts. whole: of the whole expert,
    whatever part moves."""

    least: int
    matrices: int = 1
    whole: bool = False


@dataclass(frozen=True)
class Actions:
    """compute: of one token. load: of a part from where it rests. hop: of a part, handed on. token: a row's way to
    another device; rows of one message follow each other. allocate: before a load or hop begins to move. release: from
    the edge at which a slot is left until it is free. idle_compute: a visited device without tokens computes for one
    frame. Returns take no time."""

    frame_ps: int
    compute: Action
    load: Action
    hop: Action
    token: Action
    allocate: int
    release: int
    idle_compute: bool

    def compute_ps(self, model: Model, kernel: "Kernel", columns: int, tokens: int) -> int:
        """A part over some tokens: frames of one token, times the tokens; one frame for none."""
        macs = self.compute.matrices * model.d_model * (model.d_ff if self.compute.whole else columns)
        frames = max(self.compute.least, _ceil(2 * macs * PS_PER_S, kernel.flops_per_s * self.frame_ps))
        return max(1, frames * tokens) * self.frame_ps

    def moved_ps(self, action: Action, model: Model, bytes_per_s: int, columns: int) -> int:
        """A part over a link."""
        weights = action.matrices * model.d_model * (model.d_ff if action.whole else columns) * model.weight_bytes
        scaled = _ceil(weights.numerator * PS_PER_S, weights.denominator * bytes_per_s * self.frame_ps)
        return max(action.least, scaled) * self.frame_ps

    def message_ps(self, model: Model, bytes_per_s: int, bytes_: int) -> int:
        """Rows of tokens over a link, one after the other."""
        row = model.token_row_bytes(1)
        each = max(self.token.least, _ceil(row * PS_PER_S, bytes_per_s * self.frame_ps))
        return _ceil(bytes_, row) * each * self.frame_ps


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
