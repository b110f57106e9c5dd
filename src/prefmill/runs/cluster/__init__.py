"""A run on many machines: the same steps, over buckets of whole prompts."""
