-- How often each source (model) beats the others on the same prompt: source, prompts (in which it
-- met another source), wins, losses, ties, win_rate (a tie is half a win), low and high (Wilson's
-- 95 % interval), effective_n (independent trials that the interval counts on).
--
--   FROM win_rates('pool.parquet');
--   FROM win_rates(pool, prompt := question, completion := answer, score := reward,
--                  source := model, baseline := 'gpt-4');
--
-- Every candidate of a source meets every candidate of every other source in its prompt; with
-- `baseline`, only those of that source. Roles that are not given are found by their names
-- (completion := 1 where there is none). Best first. What effective_n is: docs/semantics.md. After
-- the grouping a prompt is a number: no text goes through a sort.
CREATE OR REPLACE MACRO win_rates(
  tbl, prompt := NULL, completion := NULL, score := NULL, source := NULL, baseline := NULL
) AS TABLE (
  WITH numbered AS NOT MATERIALIZED (
    FROM pref_numbered(tbl, prompt, completion, score, source := source)),
  judged AS NOT MATERIALIZED (FROM pref_judged('numbered')),
  counted AS NOT MATERIALIZED (FROM pref_rows('judged')),
  groups AS NOT MATERIALIZED (
    SELECT min(_pos) AS _first, list({'source': _source, 'value': _value}) AS _rows
    FROM counted WHERE _reason IS NULL AND _source IS NOT NULL GROUP BY _grp),
  unnested AS NOT MATERIALIZED (SELECT _first, unnest(_rows) AS _row FROM groups),
  flat AS NOT MATERIALIZED (
    SELECT _first, _row.source AS _source, _row.value AS _value,
           coalesce(_row.source::VARCHAR = baseline::VARCHAR, false)::INT AS _base
    FROM unnested),
  -- of each row: opponents with a smaller score, with the same, and all
  met AS NOT MATERIALIZED (
    SELECT _first, _source,
           count(*) OVER below - count(*) OVER peers
             - (count(*) OVER own_below - count(*) OVER own_peers) AS _wins,
           count(*) OVER peers - count(*) OVER own_peers AS _ties,
           count(*) OVER whole - count(*) OVER own_whole AS _met
    FROM flat WHERE baseline IS NULL
    WINDOW below AS (
             PARTITION BY _first
             ORDER BY _value RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
           peers AS (PARTITION BY _first ORDER BY _value RANGE BETWEEN CURRENT ROW AND CURRENT ROW),
           whole AS (
             PARTITION BY _first
             ORDER BY _value RANGE BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING),
           own_below AS (
             PARTITION BY _first, _source
             ORDER BY _value RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
           own_peers AS (
             PARTITION BY _first, _source
             ORDER BY _value RANGE BETWEEN CURRENT ROW AND CURRENT ROW),
           own_whole AS (
             PARTITION BY _first, _source
             ORDER BY _value RANGE BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
    UNION ALL
    SELECT * EXCLUDE (_base) FROM (
      SELECT _first, _source, sum(_base) OVER base_below - sum(_base) OVER base_peers AS _wins,
             sum(_base) OVER base_peers AS _ties, sum(_base) OVER base_whole AS _met, _base
      FROM flat WHERE baseline IS NOT NULL
      WINDOW base_below AS (
               PARTITION BY _first
               ORDER BY _value RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
             base_peers AS (
               PARTITION BY _first ORDER BY _value RANGE BETWEEN CURRENT ROW AND CURRENT ROW),
             base_whole AS (
               PARTITION BY _first
               ORDER BY _value RANGE BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING))
    WHERE _base = 0),
  by_prompt AS NOT MATERIALIZED (
    SELECT _source, sum(_wins)::BIGINT AS _wins, sum(_ties)::BIGINT AS _ties,
           sum(_met)::BIGINT AS _met FROM met GROUP BY _source, _first),
  totals AS MATERIALIZED (
    SELECT _source, count(*) FILTER (_met > 0) AS _prompts, sum(_wins)::BIGINT AS _wins,
           sum(_ties)::BIGINT AS _ties, sum(_met)::BIGINT AS _met,
           sum(_met)::DOUBLE ** 2 / nullif(sum(_met::HUGEINT * _met)::DOUBLE, 0) AS _n
    FROM by_prompt GROUP BY _source),
  rated AS NOT MATERIALIZED (SELECT *, (_wins + _ties / 2) / nullif(_met, 0) AS _rate FROM totals)
  -- names with an underscore: the bare ones are the arguments
  SELECT _source AS source, _prompts AS prompts, _wins AS wins, _met - _wins - _ties AS losses,
         _ties AS ties, pref_round(_rate) AS win_rate,
         pref_wilson(_rate, _n)[1] AS low, pref_wilson(_rate, _n)[2] AS high,
         pref_round(_n) AS effective_n
  FROM (
    SELECT _source, _prompts, _wins, _ties, _met, _n, _rate FROM rated
    UNION ALL -- looked at whatever the table holds: a wrong argument is never an empty result
    SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL
    WHERE CASE
      WHEN baseline IS NOT NULL
        AND NOT EXISTS (
          SELECT 1 FROM counted WHERE _reason IS NULL AND _source::VARCHAR = baseline::VARCHAR)
      THEN error('prefmill: win_rates: no usable row is of the baseline; got '
        || baseline::VARCHAR || ', expected one of the sources.')
      END IS NOT NULL
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL
    FROM pref_roles_refusal('numbered', tbl, 'win_rates', needs := 'source')
    WHERE _said IS NOT NULL)
  ORDER BY _rate DESC NULLS LAST, _source
);
