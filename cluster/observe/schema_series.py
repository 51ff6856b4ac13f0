"""The parts of a result that tell which experts were asked for, and what happened when."""

from cluster.observe.part import Part

Slices = tuple[int, ...]
"""A whole number for each slice of a run."""


class Load(Part):
    """Tokens by the expert that they were routed to: (token, expert) pairs, counted once a MoE layer.

    layers: the model's layers that have experts, by their number in the model, of both stacks where it has two.
    prefill, decode: [layers, experts], of steps with and without a prefill token. It is the routing as the router gave
    it: pairs that a policy drops, or serves by another expert, count where they were routed.
    """

    layers: tuple[int, ...]
    prefill: tuple[tuple[int, ...], ...]
    decode: tuple[tuple[int, ...], ...]


class Series(Part):
    """What happened when, in `slices` (1 to 128) equal slices of emulated time from 0 until the horizon.

    slice_ps: how wide each is: a power of two, the least with which 128 of them reach the horizon. Slice i has what
    happened after i * slice_ps and up to (i + 1) * slice_ps, and the first what happened at 0.

    busy_ps: lane -> time in which it was held, divided over the slices that the work overlaps; servers: lane -> how
    many servers it has, so that busy_ps / (servers * slice_ps) is its use. Sums are those of `lanes`. link_bytes: link
    -> cause -> bytes of the transfers that ended; sums are those of `traffic`. Of more than 64 lanes, those behind the
    64th are summed up as "other KIND lanes" by the kind of their device ("link" where they belong to none), links alike
    as "other links".

    By the end of their step: steps; prefill_tokens, decode_tokens: tokens that steps computed; tokens: those that were
    emitted; hits, misses as in `phases`; prefetch_issued; prefetch_useful, prefetch_late: of the step that used them;
    prefetch_wasted: of the step that issued them, and none used. Sums are those of `phases` and `prefetch`.

    At the slice's end, by device that ever holds any (of more than 64, those behind as "other KIND"): resident_bytes:
    experts, as those that rest there and what memory has been taken for copies and not been given back; kv_bytes:
    caches, as of the step that was under way, or the last before.
    """

    slice_ps: int
    slices: int
    servers: dict[str, int]
    busy_ps: dict[str, Slices]
    link_bytes: dict[str, dict[str, Slices]]
    steps: Slices
    prefill_tokens: Slices
    decode_tokens: Slices
    tokens: Slices
    hits: Slices
    misses: Slices
    prefetch_issued: Slices
    prefetch_useful: Slices
    prefetch_late: Slices
    prefetch_wasted: Slices
    resident_bytes: dict[str, Slices]
    kv_bytes: dict[str, Slices]
