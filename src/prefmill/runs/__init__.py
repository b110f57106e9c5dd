"""One plan over files: rank narrow, gather once, account for every row."""
