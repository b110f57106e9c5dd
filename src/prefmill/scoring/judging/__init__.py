"""Judging: what a judge is asked, what its answers mean, and what they are worth together."""
