"""The page of a served machine: its live numbers, of the parts that a report is made of."""
