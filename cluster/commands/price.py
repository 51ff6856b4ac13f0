"""`moelab price`: what lossy policies cost in quality, beside their speed."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.run import Config, Json, Policies, Settings, read, with_policies
from cluster.commands.show import Bar, console

if TYPE_CHECKING:
    from rich.table import Table

    from studies.price import Row

Domains = Annotated[str | None, typer.Option(
    "--domains", metavar="A,B", help="code, technical, prose, maths, german, chinese (default: all), or own: the run's "
                                     "own text.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Worker processes (default: one a core).")]


def price(config: Config, policies: Policies = None, domains: Domains = None, settings: Settings = None,
          workers: Workers = None, as_json: Json = False) -> None:
    """Run policies for real on held-out text that is forced, and compare their logits with plain transformers'."""
    from emulation.extras import require
    from studies.price import means
    from studies.price import price as priced

    wanted = read(config, settings)
    require("price", "models")
    if policies is not None:
        wanted = with_policies(wanted, policies)
    chosen = None if domains is None else [name.strip() for name in domains.split(",") if name.strip()]
    with Bar() as bar:
        rows = priced(wanted, chosen, bar, workers=workers)
    if len({row.domain for row in rows}) > 1:
        rows += means(rows)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    screen = console()
    title = f"{wanted.model.name or wanted.model.checkpoint} on {wanted.machine.name}: the price beside the speed"
    screen.print(table(rows, title))
    screen.print(layers(rows))


def table(rows: "list[Row]", title: str) -> "Table":
    """A line for each domain and policy."""
    from rich.table import Table

    out = Table("domain", "policy", title=title, title_justify="left")
    for head in ("bits per byte", "plain", "cost", "top-1 kept", "KL, nats/token", "substituted", "dropped",
                 "decode tok/s"):
        out.add_column(head, justify="right")
    for i, row in enumerate(rows):
        speed = row.decode_tokens_per_s
        out.add_row(row.domain, row.policy, f"{row.bits_per_byte:.4f}", f"{row.plain_bits_per_byte:.4f}",
                    _percent(row.bits_per_byte / row.plain_bits_per_byte - 1, "+"), _percent(row.top1_agreement),
                    "0" if row.largest_logit_difference == 0 else f"{row.kl:.4f}", _percent(row.substituted),
                    _percent(row.dropped), "" if speed is None else f"{speed:.1f}",
                    end_section=i + 1 < len(rows) and rows[i + 1].domain != row.domain)
    return out


def layers(rows: "list[Row]") -> "Table":
    """How well the next layer's gate is predicted, and how alike prefill and decode are, by MoE layer."""
    from rich.table import Table

    out = Table("domain", "policy", "", title="by MoE layer", title_justify="left")
    for number in range(len(rows[0].prediction_by_layer)):
        out.add_column(str(number), justify="right")
    out.add_column("all", justify="right")
    for i, row in enumerate(rows):
        last = i + 1 < len(rows) and rows[i + 1].domain != row.domain
        if row.prediction is not None:
            out.add_row(row.domain, row.policy, "experts predicted", *map(_percent, row.prediction_by_layer),
                        _percent(row.prediction))
        out.add_row(row.domain, row.policy, "prefill like decode", *map(_percent, row.similarity_by_layer),
                    _percent(row.similarity), end_section=last)
    return out


def _percent(share: float | None, sign: str = "") -> str:
    return "" if share is None else f"{share:{sign}.1%}" if share else "0"
