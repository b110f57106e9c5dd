"""What a run says of itself: its report, what was expected of it, and what would help."""
