"""How an expert is cut into shards."""


def slice_bounds(extent: int, parts: int) -> tuple[tuple[int, int], ...]:
    """Cut `extent` columns into `parts` runs [lo, hi); the first `extent % parts` runs get one more column.

    The published system (P1, arXiv 2601.03992) gives no remainder rule; this one is ours.
    """
    if parts < 1:
        raise ValueError(f"an expert is cut into at least one part, not {parts}")
    if extent < 0:
        raise ValueError(f"an expert has no {extent} columns to cut")
    base, extra = divmod(extent, parts)
    bounds = []
    lo = 0
    for part in range(parts):
        hi = lo + base + (1 if part < extra else 0)
        bounds.append((lo, hi))
        lo = hi
    return tuple(bounds)
