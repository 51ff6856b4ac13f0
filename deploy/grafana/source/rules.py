"""Recording rules that give what Ray's agents tell the names that it has elsewhere, and all rules as one resource.

Ray puts `ray_` before a name and adds labels of its own, one of them the worker process, so that each actor that ever
lived has series of its own. Summed by what the catalogue says of a metric, they are what a scrape of moelab gives.
"""

from collections.abc import Iterator
from pathlib import Path

import yaml

from cluster.observe.metrics.catalogue import IDENTITY, METRICS, Metric

HEAD = """# Made by `make dashboards` from cluster/observe/metrics/catalogue.py: not to be edited.
# What came through Ray's agent (ray_moelab_*), under the names that it has elsewhere, without Ray's labels.
"""
RESOURCE = """# Made by `make dashboards` from deploy/prometheus/rules: not to be edited.
# The recording and alert rules for the Prometheus operator.
"""


def _names(metric: Metric) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """The series of a metric: their names, how Ray calls them, and their labels.

    Ray is told a histogram as counters (cluster/transports/ray/figures.py), each of which gets the ending `_total`.
    """
    labels = (*IDENTITY, *metric.labels)
    if metric.kind == "histogram":
        for part, of in (("bucket", (*labels, "le")), ("sum", labels), ("count", labels)):
            yield f"{metric.name}_{part}", f"ray_{metric.name}_{part}_total", of
    else:
        yield metric.name, f"ray_{metric.name}", labels


def of_ray() -> str:
    """rules/ray.yml: counters add up over processes, a gauge is the highest that any tells."""
    how = {"counter": "sum", "histogram": "sum", "gauge": "max"}
    rules = [{"record": name, "expr": f"{how[metric.kind]} by ({', '.join(labels)}) ({there})"}
             for metric in METRICS if "run" in metric.of for name, there, labels in _names(metric)]
    return HEAD + _yaml({"groups": [{"name": "moelab-ray", "rules": rules}]})


def resource(folder: Path, ray: str) -> str:
    """A PrometheusRule of all rules. folder: those that are written by hand."""
    groups = [group for text in (ray, *(file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.yml"))
                                        if file.name != "ray.yml"))
              for group in yaml.safe_load(text)["groups"]]
    return RESOURCE + _yaml({"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule",
                             "metadata": {"name": "moelab"}, "spec": {"groups": groups}})


def _yaml(tree: object) -> str:
    return str(yaml.safe_dump(tree, sort_keys=False, width=118, allow_unicode=True))
