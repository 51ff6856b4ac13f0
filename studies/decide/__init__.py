"""Machines against machines, each with its best policy: who wins where, how surely, and what would change it."""
