"""What judges say: votes become scores, and an audit looks at what decides them."""
