"""A run on several machines: who does the work, what travels, and what is done about losses."""
