"""Generated routing: which experts each token visits, drawn from a seed."""
