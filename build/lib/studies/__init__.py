"""What is built on runs: compare, sweep, reproduce, calibrate, fidelity."""
