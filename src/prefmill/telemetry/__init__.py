"""What a run tells the outside: log records, OpenLineage events, OpenTelemetry spans and metrics.

Every run passes one seam (`watch.watched`). Nothing is told unless somebody listens, and a listener
that fails never fails a run. Counts, names and types are told; texts and secrets never.
"""
