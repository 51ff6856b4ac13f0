"""Batchers: who computes how many tokens in the next step. One file each; pure."""
