"""Scores and answers in chunks: killed anywhere, the same call goes on."""
