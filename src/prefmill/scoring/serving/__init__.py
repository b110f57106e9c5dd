"""What a server of scores is asked, and what its answers say: the parts of `EndpointScorer`."""
