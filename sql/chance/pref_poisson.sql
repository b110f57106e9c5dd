-- How often a prompt with the hash `h` stands in resample number `resample` of a bootstrap: a
-- Poisson number with mean 1 from 32 random bits.
CREATE OR REPLACE MACRO pref_poisson(h, resample) AS
list_transform([pref_mix(xor(h & 4294967295::UBIGINT, resample::UBIGINT))], lambda x:
  len(list_filter([1580030169, 3160060338, 3950075422, 4213413784, 4279248374, 4292415292,
    4294609778, 4294923277, 4294962464, 4294966818, 4294967253, 4294967293],
    lambda bound: x >= bound)))[1];
