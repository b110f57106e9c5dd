-- How much the i-th smallest of m scores counts in the expected r-th smallest of n that are drawn
-- from them without replacement: C(i - 1, r - 1) C(m - i, n - r) / C(m, n). In logarithms, so that
-- no binomial overflows.
CREATE OR REPLACE MACRO pref_log_choose(n, k) AS lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1);
CREATE OR REPLACE MACRO pref_order_weight(m, n, r, i) AS
CASE WHEN i < r OR m - i < n - r THEN 0
     ELSE exp(pref_log_choose(i - 1, r - 1) + pref_log_choose(m - i, n - r) - pref_log_choose(m, n))
       END::DOUBLE;
