"""What scoring and sampling share: loading, tokens, templates, clients."""
