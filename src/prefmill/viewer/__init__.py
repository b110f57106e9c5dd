"""A local page to read preference data row by row: search, sort, filter, compare, flag."""
