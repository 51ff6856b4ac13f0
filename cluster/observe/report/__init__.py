"""A run as one page to look at: small pure functions from figures to markup, and the page that joins them."""
