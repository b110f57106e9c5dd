-- The number that pref_mix makes x of (0 <= x < 2^32): it makes each number of one.
CREATE OR REPLACE MACRO pref_unmix(x) AS
list_transform(
  list_transform(
    list_transform([xor(x::UBIGINT, x::UBIGINT >> 16)],
      lambda v: (v * 1124208931::UBIGINT) & 4294967295::UBIGINT),
    lambda v: (xor(xor(v, v >> 15), v >> 30) * 493478565::UBIGINT) & 4294967295::UBIGINT),
  lambda v: xor(v, v >> 16))[1];
