"""Runs that recompute the prompts whose rows changed, and keep the rest of the output."""
