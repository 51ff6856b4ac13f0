"""The wall clock: what the engine timed is really played, dilated, by the devices' processes, and judged."""
