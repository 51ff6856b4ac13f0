"""What a scrape says, for tests: by the library's own parser."""

from prometheus_client.parser import text_string_to_metric_families


def found(text: str, name: str, **labels: str) -> list[float]:
    """Values of the samples of this name that carry at least these labels."""
    return [sample.value for family in text_string_to_metric_families(text) for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()]


def value(text: str, name: str, **labels: str) -> float:
    """The value of the one sample of this name that carries these labels."""
    values = found(text, name, **labels)
    assert len(values) == 1, f"{name} {labels}: {values}"
    return values[0]
