"""Workers on the machines of a cluster: each holds a model, and is dealt chunks."""
