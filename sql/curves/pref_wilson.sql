-- Wilson's 95 % interval [low, high] of a share p seen in n trials, n > 0 and not necessarily
-- whole. Wilson 1927, J. Am. Stat. Assoc. 22:209.
CREATE OR REPLACE MACRO pref_wilson(p, n) AS
list_transform([-1.959963984540054::DOUBLE, 1.959963984540054::DOUBLE], lambda z:
  -- The CASE: least and greatest pass over a NULL.
  CASE WHEN p IS NOT NULL THEN pref_round(greatest(0, least(1,
    (p + z * z / (2 * n) + z * sqrt(greatest(p * (1 - p), 0) / n + z * z / (4 * n * n)))
      / (1 + z * z / n)))) END);
