"""What a judge's scores depend on besides quality: effects over comparisons, each with its error.

texts ──traits──▶ answers ──pairings──▶ comparisons ──probes──▶ effects ──verdicts──▶ probes
"""
