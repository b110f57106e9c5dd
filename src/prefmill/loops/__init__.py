"""Sample, score, select, train, and again."""
