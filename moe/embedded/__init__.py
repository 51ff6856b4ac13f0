"""A small trained mixture-of-experts language model in hub layout, with the scripts that made it."""
