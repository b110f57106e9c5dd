-- The stable 64-bit number of a group key under a seed: the first 8 bytes of MD5(seed:key),
-- little-endian.
CREATE OR REPLACE MACRO pref_hash(key, seed) AS
md5_number_upper(seed::VARCHAR || ':' || pref_spell(key));
