"""The rules as lazy Polars expressions, under the names of the macros in `sql/`."""
