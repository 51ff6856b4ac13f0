"""The compiled lowering of loads and evictions: `copies.Copies` and the ledger's rules, on arrays.

`t` are the tables, `s` the state, `o` the output. What a plan may not do returns False or a negative number; the
readable path then tells why.
"""

from emulation.lowering import compiled_ops as c
from emulation.lowering import compiled_state as k
from emulation.lowering.compiled_ops import NONE, Out, begin_op, end_op, hold, inner, release, take, wait
from emulation.lowering.compiled_state import State
from emulation.lowering.tables import Tables


@inner
def issue(t: Tables, o: Out, device: int, family: int) -> int:
    """The operation of the thread that issues work to a device; NONE where none does."""
    if t.issuer[device] == NONE or t.kernel[device, family] == 0:
        return NONE
    op = begin_op(o, c.ISSUE, 0, device, NONE, 0)
    hold(o, t.issuer[device], t.issue_ps[device, family])
    end_op(o)
    return op


@inner
def has(s: State, device: int, moe: int, expert: int, part: int) -> bool:
    if s.rest[moe, expert, part] == device:
        return True
    slot = s.slot[device]
    return slot != NONE and s.since[slot, moe, expert, part] != NONE


@inner
def count_moved(t: Tables, s: State, source: int, target: int, cause: int, bytes_: int) -> None:
    pair = t.pair[source, target]
    s.worked[source, 0] += bytes_
    s.worked[target, 0] += bytes_
    for i in range(t.route_ptr[pair], t.route_ptr[pair + 1]):
        s.moved[t.route_link[i], cause] += bytes_


@inner
def evict(s: State, o: Out, device: int, moe: int, expert: int, part: int) -> None:
    """A copy's memory goes back after its last use; its room is there for loads to wait for."""
    slot = s.slot[device]
    ready, use = s.ready[slot, moe, expert, part], s.use[slot, moe, expert, part]
    release(o, s.handle[slot, moe, expert, part], ready, use)
    ring = s.left_bytes.shape[1]
    at = (s.left_first[slot] + s.left_n[slot]) % ring
    s.left_bytes[slot, at] = s.part_bytes[part]
    s.left_ready[slot, at] = ready
    s.left_use[slot, at] = use
    s.left_n[slot] += 1
    s.left_total[slot] += s.part_bytes[part]


@inner
def wait_for_room(s: State, o: Out, device: int) -> None:
    """The edges after which evicted copies have left the room that the ledger has given away."""
    slot = s.slot[device]
    lack = s.left_total[slot] - (s.budget_bytes[device] - s.used_bytes[device])
    ring = s.left_bytes.shape[1]
    while lack > 0:
        at = s.left_first[slot]
        wait(o, s.left_ready[slot, at])
        wait(o, s.left_use[slot, at])
        bytes_ = s.left_bytes[slot, at]
        gone = min(bytes_, lack)
        if bytes_ > lack:
            s.left_bytes[slot, at] = bytes_ - lack
        else:
            s.left_first[slot] = (at + 1) % ring
            s.left_n[slot] -= 1
        s.left_total[slot] -= gone
        lack -= bytes_


@inner
def copy_part(t: Tables, s: State, o: Out, device: int, moe: int, expert: int, part: int, victim: int,
              priority: int) -> int:
    """Issue the copy of one part, over the same part of `victim` or (NONE) into free memory; its operation."""
    slot, source = s.slot[device], s.rest[moe, expert, part]
    pair = t.pair[source, device]
    if pair == NONE:
        return NONE
    bytes_, cause = s.part_bytes[part], c.BY_DEMAND if priority == c.DEMAND else c.BY_PREFETCH
    count_moved(t, s, source, device, cause, bytes_)
    host = device if t.issuer[device] != NONE else source
    issued = issue(t, o, host, c.COPY)
    op = begin_op(o, c.COPY, cause, device, expert, bytes_)
    i = o.n[c.OPS]
    o.priority[i] = priority
    if priority > c.DEMAND:
        o.quantum_ps[i] = t.quantum_ps[pair]
    slowest_ps = 0
    for link in range(t.route_ptr[pair], t.route_ptr[pair + 1]):
        hold(o, t.route_lane[link], t.part_ps[link, part])
        slowest_ps = max(slowest_ps, t.part_ps[link, part])
    for end in range(t.end_ptr[pair], t.end_ptr[pair + 1]):
        hold(o, t.end_lane[end], slowest_ps)
    o.length_ps[i] = max(o.length_ps[i], slowest_ps + t.latency_ps[pair])
    if victim == NONE:
        wait_for_room(s, o, device)
        s.handle[slot, moe, expert, part] = take(o, s.pool[device], bytes_)
    else:
        wait(o, s.ready[slot, moe, victim, part])
        wait(o, s.use[slot, moe, victim, part])
        s.handle[slot, moe, expert, part] = s.handle[slot, moe, victim, part]
    wait(o, issued)
    end_op(o)
    s.ready[slot, moe, expert, part] = op
    s.use[slot, moe, expert, part] = NONE
    s.use_step[slot, moe, expert, part] = NONE
    return op


@inner
def drop(s: State, device: int, moe: int, expert: int, part: int) -> bool:
    """The ledger's side of an eviction; whether there was a copy."""
    slot = s.slot[device]
    if slot == NONE or s.since[slot, moe, expert, part] == NONE:
        return False
    s.since[slot, moe, expert, part] = NONE
    s.used_bytes[device] -= s.part_bytes[part]
    return True


@inner
def load(t: Tables, s: State, o: Out, phase: int, moe: int, expert: int, first: int, end: int, device: int,
         victim: int, priority: int) -> bool:
    """A LOAD row: parts [first, end) of an expert."""
    slot = s.slot[device]
    if slot == NONE:
        return False
    # The victim's parts leave the ledger first; `gone` of a part is told by its mark, which is cleared below.
    any_gone = victim == NONE
    if victim != NONE:
        for part in range(first, end):
            if drop(s, device, moe, victim, part):
                any_gone = True
                s.since[slot, moe, victim, part] = -2
    missing = False
    for part in range(first, end):
        missing |= not has(s, device, moe, expert, part)
    if not any_gone or not missing or victim == expert:
        return False
    for part in range(first, end):
        over = NONE
        if victim != NONE and s.since[slot, moe, victim, part] == -2:
            s.since[slot, moe, victim, part] = NONE
            over = victim
        if not has(s, device, moe, expert, part):
            s.used_bytes[device] += s.part_bytes[part]
            if s.used_bytes[device] > s.budget_bytes[device]:
                return False
            s.peak_bytes[device] = max(s.peak_bytes[device], s.used_bytes[device])
            s.phase[0, k.ISSUED] += 1
            s.since[slot, moe, expert, part] = s.phase[0, k.ISSUED]
            op = copy_part(t, s, o, device, moe, expert, part, over, priority)
            if op == NONE:
                return False
            s.phase[phase, k.LOADS] += 1
            for h in range(len(s.homes)):
                s.phase[0, k.AT_HOME] |= s.homes[h] == device
            s.phase[phase, k.LOADED_BYTES] += s.part_bytes[part]
            if priority > c.DEMAND:
                s.phase[0, k.PREFETCHED] += 1
                s.prefetch[slot, moe, expert, part] = op
            else:
                s.prefetch[slot, moe, expert, part] = NONE
        elif over != NONE:
            evict(s, o, device, moe, over, part)
    return True
