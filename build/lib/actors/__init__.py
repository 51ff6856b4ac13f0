"""Plain classes that the transports host: the central scheduler and the devices."""
