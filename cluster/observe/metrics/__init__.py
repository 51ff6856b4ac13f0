"""Metrics: what a run, a served machine or a cluster tells Prometheus, with one meaning wherever it is read.

catalogue: every metric as data. families: values of metrics, bounded. of_result, of_run, of_machine: where the values
come from. over_time, text: of a finished run, with emulated timestamps. collector: the one importer of
prometheus_client. door: where a run is scraped. docs/metrics.md has the table.
"""
