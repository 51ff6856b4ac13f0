"""Measures the machine that it runs on, in the offloading engine, and writes a hardware file."""
