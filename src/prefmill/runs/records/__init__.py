"""The records next to outputs: what a run was made of, and whether it is done already."""
