"""What a run leaves: a result with a digest, a timeline, tables, and metrics while it lasts."""
