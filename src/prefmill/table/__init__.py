"""Tables: which column is what, messages, types, chance, and the account of every row."""
