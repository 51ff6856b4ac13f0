"""The public face: run a config, compare policies, write a policy."""
