"""Experts: who is asked for how often, what was held, what was fetched ahead."""

from deploy.grafana.source import queries as q
from deploy.grafana.source.panels import Board, Panel, Query, Row

HITS, MISSES = "moelab_experts_hits_total", "moelab_experts_misses_total"
LOADED, PREFETCHES = "moelab_loaded_bytes_total", "moelab_prefetches_total"
TOP, NAMED = "moelab_top_expert_tokens_total", 'expert!="other"'
BY_PHASE = "{{run}} {{policy}} {{phase}}"
BY_EXPERT = "{{run}} {{policy}} L{{layer}} E{{expert}}"
BY_GROUP = "{{run}} {{policy}} {{group}}"


def _share_of_issued(outcome: str) -> str:
    return q.over(q.total(PREFETCHES, where=f'outcome="{outcome}"'), q.total(PREFETCHES, where='outcome="issued"'))


LOAD = Row("Load", (
    Panel("heat", "Load by layer group", "Tokens routed to the experts of each group of MoE layers, per emulated"
          " second.", "none", (Query(q.per_emulated_second("moelab_expert_load_tokens_total", "group"), BY_GROUP),)),
    Panel("heat", "Load of the fullest experts", "Tokens routed to the experts with the most of them, per emulated"
          " second.", "none", (Query(q.per_emulated_second(TOP, "layer", "expert", where=NAMED), BY_EXPERT),)),
    Panel("bars", "Fullest experts", "Tokens routed to each since the run began.", "none",
          (Query(f"topk(12, {q.total(TOP, 'layer', 'expert', where=NAMED)})", BY_EXPERT),)),
    Panel("bars", "Skew of load", "Load of the fullest expert of a layer over the layer's mean, averaged over a group"
          " of layers: 1 is even.", "none", (Query(q.level("moelab_load_skew_ratio", "group"), BY_GROUP),))))

CACHE = Row("Hits and loads", (
    Panel("stat", "Hit ratio", "Routed experts of a layer that a home held at the decision, of all, since the run"
          " began.", "percentunit",
          (Query(q.over(q.total(HITS), f"{q.total(HITS)} + {q.total(MISSES)}")),), width=6, most=1),
    Panel("series", "Hit ratio over time", "The same, of late and by phase.", "percentunit",
          (Query(q.over(q.rate(HITS, "phase"), f"{q.rate(HITS, 'phase')} + {q.rate(MISSES, 'phase')}"), BY_PHASE),),
          width=9, most=1),
    Panel("series", "Hits and misses per step", "Routed experts that were held at the decision, and that were not, over"
          " all steps of late.", "none",
          (Query(q.over(q.rate(HITS), q.rate("moelab_steps_total")), "{{run}} {{policy}} hits"),
           Query(q.over(q.rate(MISSES), q.rate("moelab_steps_total")), "{{run}} {{policy}} misses")), width=9),
    Panel("series", "Bytes loaded per emulated second", "Bytes of the parts of experts that were loaded.", "Bps",
          (Query(q.per_emulated_second(LOADED, "phase"), BY_PHASE),)),
    Panel("series", "Loads per emulated second", "Parts of experts that were loaded.", "none",
          (Query(q.per_emulated_second("moelab_experts_loads_total", "phase"), BY_PHASE),))))

SERVED = Row("What was not served as routed", (
    Panel("series", "Substituted and dropped pairs", "Routed pairs that another expert served, and that nobody served,"
          " per emulated second: none where the policy is exact.", "none",
          (Query(q.per_emulated_second("moelab_experts_substituted_total", "phase"), f"{BY_PHASE} substituted"),
           Query(q.per_emulated_second("moelab_experts_dropped_total", "phase"), f"{BY_PHASE} dropped")), width=24),))

PREFETCH = Row("Prefetch", (
    Panel("series", "Prefetches per emulated second", "Issued; useful: were used; late: those of them that came after"
          " the decision; wasted: never used.", "none",
          (Query(q.per_emulated_second(PREFETCHES, "outcome"), "{{run}} {{policy}} {{outcome}}"),)),
    Panel("stat", "Useful, of issued", "Share of the prefetches that were used, since the run began.", "percentunit",
          (Query(_share_of_issued("useful")),), width=6, most=1),
    Panel("stat", "Late, of issued", "Share that was used and came after the decision that used it.", "percentunit",
          (Query(_share_of_issued("late")),), width=6, most=1, steps=((0.1, "yellow"), (0.5, "orange")))))

BOARD = Board("moelab-experts", "moelab: experts", "Load of the experts, hits and misses, loads and prefetches.",
              (LOAD, CACHE, PREFETCH, SERVED))
