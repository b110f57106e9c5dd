"""The two ways in which an engine runs token rows, what they share, and what decides between them.

headed    a model with its head: what both ways go by, and rows one at a time
memory    how many tokens a pass may have, and what running out has taught
streams   flat sequences without padding
padded    padded batches
probing   random rows, run both ways
"""
