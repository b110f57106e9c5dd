"""What preference data looks like, on one page and in the terminal: see `docs/report.md`."""
