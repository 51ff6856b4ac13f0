"""Policies: each a file with a class `Policy` that decides, purely, where experts run and what moves."""
