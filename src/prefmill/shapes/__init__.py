"""Raw records of any shape become rows of roles: the words of `[rows]`, and what they do.

words ──recognise──▶ words ──shape──▶ a shape ──sql, frames──▶ rows of prompt, completion, score
"""
