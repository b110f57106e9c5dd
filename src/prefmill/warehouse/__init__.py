"""Tables of warehouses, as outputs and inputs: Delta, Iceberg, Lance, DuckDB, SQLite, Postgres.

A run is one commit of a table, and the commit says which run it is. So a run that is started again
finds itself, and readers see the table before it or after it.
"""
