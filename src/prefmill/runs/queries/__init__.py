"""SQL over files: what `prefmill sql` runs."""
