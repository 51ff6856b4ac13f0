"""Values and time: what a machine is, what a plan is, and when each operation happens."""
