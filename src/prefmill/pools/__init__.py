"""Candidates and prompts: any source as Arrow batches, whole prompt groups."""
