"""From decisions to operations: the one place where bytes and flops become durations. Shared by all policies."""
