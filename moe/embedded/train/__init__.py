"""The recipe of the embedded model: fetch texts, train, export, evaluate, record its routing."""
