"""The OpenAI-compatible HTTP front door: what clients may ask, what they are answered, and the app around both."""
