-- A 32-bit integer hash of x (0 <= x < 2^32): xor-shift and multiply, all products below 2^64. The
-- lists bind each step's value once.
CREATE OR REPLACE MACRO pref_mix(x) AS
list_transform(
  list_transform(
    list_transform([x::UBIGINT],
      lambda v: (xor(v, v >> 16) * 2146121005::UBIGINT) & 4294967295::UBIGINT),
    lambda v: (xor(v, v >> 15) * 2221713035::UBIGINT) & 4294967295::UBIGINT),
  lambda v: xor(v, v >> 16))[1];
