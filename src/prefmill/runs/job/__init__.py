"""One plan over one source: its job ranks narrow, then gathers, and accounts for every row."""
