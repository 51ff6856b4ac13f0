"""Batch after batch on the compiled engine, without going back to the interpreter for each."""


from emulation.engine import compiled_layout as c
from emulation.engine.compiled_layout import NONE
from emulation.engine.compiled_loop import run_instants
from emulation.engine.compiled_submit import append_ops
from emulation.engine.compiled_table import Ints, as_column, inner, kernel, tables
from emulation.engine.play import Columns

PLAYED = -1

BATCH, SUBMITTED = range(2)
"""How far it is: the batch, and whether that is submitted."""


@inner
def from_zero(ptr: Ints, low: int, high: int) -> Ints:
    """The part of pointers that belongs to rows [low, high), as if nothing came before."""
    part: Ints = ptr[low:high + 1] - ptr[low]
    return part


@kernel("int64(int64[::1], int64[::1], " + ", ".join(["int64[::1]"] * (len(Columns._fields) + 5)) + ")")
def play_batches(scalars: Ints, memory: Ints, priority: Ints, quantum_ps: Ints, length_ps: Ints, hold_ptr: Ints,
                 hold_lane: Ints, hold_ps: Ints, wait_ptr: Ints, wait_op: Ints, wait_edge: Ints, take_ptr: Ints,
                 take_pool: Ints, take_needs: Ints, take_amount: Ints, release_take: Ints, release_ptr: Ints,
                 release_op: Ints, release_edge: Ints, rows: Ints, releases: Ints, decisions: Ints, submitted_ps: Ints,
                 progress: Ints) -> int:
    """Submit each batch when the decision of the one before has ended: rows, releases [batches + 1] say where each
    begins. PLAYED, or what keeps it from going on at `progress`: an outcome of `append_ops` or, where the batch is
    submitted, of `run_instants`. submitted_ps [batches]: when each was submitted.
    """
    s = as_column(scalars)
    t = tables(s, memory)
    while progress[BATCH] < len(decisions):
        i = progress[BATCH]
        if not progress[SUBMITTED]:
            submitted_ps[i] = s[c.NOW]
            low, high, first, last = rows[i], rows[i + 1], releases[i], releases[i + 1]
            holds, waits = from_zero(hold_ptr, low, high), from_zero(wait_ptr, low, high)
            takes, edges = from_zero(take_ptr, low, high), from_zero(release_ptr, first, last)
            hold, wait, take, edge = hold_ptr[low], wait_ptr[low], take_ptr[low], release_ptr[first]
            columns = Columns(
                as_column(priority[low:]), as_column(quantum_ps[low:]), as_column(length_ps[low:]), as_column(holds),
                as_column(hold_lane[hold:]), as_column(hold_ps[hold:]), as_column(waits), as_column(wait_op[wait:]),
                as_column(wait_edge[wait:]), as_column(takes), as_column(take_pool[take:]),
                as_column(take_needs[take:]), as_column(take_amount[take:]), as_column(release_take[first:]),
                as_column(edges), as_column(release_op[edge:]), as_column(release_edge[edge:]))
            outcome = append_ops(s, t, high - low, holds[-1], waits[-1], takes[-1], last - first, edges[-1], columns)
            if outcome != c.ACCEPTED:
                return outcome
            progress[SUBMITTED] = 1
        row = decisions[i] - s[c.FIRST]
        if t.ends[row] == NONE:
            t.ops[row, c.META] |= c.WATCHED
            outcome = run_instants(s, t, c.FAR)
            t.ops[row, c.META] &= ~c.WATCHED
            if outcome != c.STOPPED:
                return outcome
            s[c.REACHED_N] = 0
        progress[BATCH], progress[SUBMITTED] = i + 1, 0
    return PLAYED
