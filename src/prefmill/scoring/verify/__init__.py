"""Verifiable rewards: answers against what is known, and code against its tests.

verifier   the scorer                    checks    one answer against one truth
answers    where answers stand           workers   checks in children, which may be ended
programs   code against its tests        commands  a user's own program
sandbox    a child from outside          cage, harness   the same from inside
"""
