"""The dashboards and what goes with them, as typed sources: `make dashboards` writes what they come to."""
