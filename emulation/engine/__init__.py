"""The timing engine: turns operations into spans. `spec` is the specification, `compiled` the fast twin."""
