"""A proxy of a reward model, fitted in a minute: what pairs are worth, and which to label next."""
