"""What happened when, in equal slices of emulated time."""
