-- The k best (median, worst, random, rso, majority) completions of every prompt: prompt,
-- completion, score, rank (1 is the best).
--
--   FROM best_of('scored.parquet', k := 4);
--   FROM best_of(scored, prompt := question, completion := answer, score := -loss,
--                pick := 'random', seed := 1);
--   FROM best_of(scored, k := 8, pick := 'rso', beta := 0.5, length_control := true);
--
-- pick 'rso' is statistical rejection sampling: beta, in units of the score, says how much worse a
-- completion may be. length_control takes out of the scores what completion length explains of them
-- before anything is picked; then there is a column adjusted_score. Roles that are not given are
-- found by their names (pref_numbered); keep := ['model'] adds columns. pick 'majority'
-- picks the best of those that come to the conclusion of most: conclusion := final_answer; then
-- there is a column agreeing. What the arguments mean: docs/semantics.md.
CREATE OR REPLACE MACRO pref_best_refusal(
  k, pick, scope, seed, beta, length_control, has_conclusion
) AS
CASE
  WHEN coalesce(k < 1 OR k <> floor(k), true)
  THEN error('prefmill: best_of: k is no whole number >= 1; got ' || coalesce(k::VARCHAR, 'NULL')
    || '.')
  WHEN coalesce(pick NOT IN ('best', 'median', 'worst', 'random', 'rso', 'majority'), true)
  THEN error('prefmill: best_of: unknown pick; got ' || coalesce(pick, 'NULL')
    || ', expected best, median, worst, random, rso or majority.')
  WHEN (pick = 'majority') <> has_conclusion
  THEN error('prefmill: best_of: pick majority, and only it, needs conclusion, a column.')
  WHEN coalesce(scope NOT IN ('prompt', 'pool'), true)
  THEN error('prefmill: best_of: unknown scope; got ' || coalesce(scope, 'NULL')
    || ', expected prompt or pool.')
  WHEN pick = 'rso' AND scope = 'pool'
  THEN error('prefmill: best_of: pick rso accepts inside a prompt; got scope pool,'
    || ' expected prompt.')
  WHEN pick = 'majority' AND length_control
  THEN error('prefmill: best_of: pick majority goes by answers, and length_control changes scores;'
    || ' got both.')
  WHEN NOT coalesce(isfinite(beta::DOUBLE) AND beta > 0, false)
  THEN error('prefmill: best_of: beta is no finite number > 0; got '
    || coalesce(beta::VARCHAR, 'NULL') || '.')
  WHEN length_control IS NULL
  THEN error('prefmill: best_of: length_control is neither true nor false; got NULL.')
  ELSE pref_seed_refusal('best_of', seed)
END;
CREATE OR REPLACE MACRO best_of(
  tbl, prompt := NULL, completion := NULL, score := NULL, k := 1, pick := 'best', scope := 'prompt',
  min_score := NULL, seed := 0, beta := 0.5, length_control := false, conclusion := NULL,
  keep := NULL
) AS TABLE (
  WITH numbered AS NOT MATERIALIZED (
    SELECT *, _further AS _conclusion
    FROM pref_numbered(tbl, prompt, completion, score, further := conclusion, keep := keep)),
  texts AS NOT MATERIALIZED (
    SELECT _pos, _prompt, _completion, COLUMNS('^_keep_(.*)$') AS "\1" FROM numbered),
  read AS NOT MATERIALIZED (FROM pref_judged('numbered')),
  judged AS NOT MATERIALIZED (
    SELECT * REPLACE (
      CASE WHEN pick = 'majority' THEN pref_conclusion_refusal(_conclusion) END AS _refusal)
    FROM read),
  counted AS NOT MATERIALIZED (FROM pref_rows('judged')),
  candidates AS NOT MATERIALIZED (FROM pref_candidates('counted')),
  measured AS NOT MATERIALIZED (FROM pref_measured('candidates', 'numbered')),
  fit AS NOT MATERIALIZED (FROM pref_length_fit('measured')),
  adjusted AS NOT MATERIALIZED (FROM pref_adjusted('measured', 'fit', min_score := min_score)),
  agreeing AS NOT MATERIALIZED (
    FROM pref_agreeing('candidates', 'numbered', min_score := min_score)),
  pools AS NOT MATERIALIZED (
    FROM pref_pools(CASE WHEN length_control THEN 'adjusted' WHEN pick = 'majority' THEN 'agreeing'
        ELSE 'candidates' END, k := k,
      pick := CASE pick WHEN 'majority' THEN 'best' ELSE pick END, scope := scope,
      min_score := CASE WHEN length_control THEN pref_adjusted_min(min_score) ELSE min_score END)),
  by_rank AS NOT MATERIALIZED (
    FROM pref_picks('pools', k := k, pick := CASE pick WHEN 'majority' THEN 'best' ELSE pick END,
      scope := scope, seed := seed)),
  by_rso AS NOT MATERIALIZED (FROM pref_rso('pools', k := k, seed := seed, beta := beta)),
  ranked AS NOT MATERIALIZED (
    FROM query_table(CASE WHEN pick = 'rso' THEN 'by_rso' ELSE 'by_rank' END)),
  plain AS NOT MATERIALIZED (
    SELECT *, NULL::DOUBLE AS _adjusted_score, NULL::BIGINT AS _agreeing FROM ranked),
  given AS NOT MATERIALIZED (
    SELECT *, NULL::BIGINT AS _agreeing FROM pref_given('ranked', 'candidates')),
  agreed AS NOT MATERIALIZED (
    SELECT *, NULL::DOUBLE AS _adjusted_score FROM pref_agreed('ranked', 'agreeing')),
  picks AS NOT MATERIALIZED (
    FROM query_table(CASE WHEN length_control THEN 'given' WHEN pick = 'majority' THEN 'agreed'
      ELSE 'plain' END)),
  -- names with an underscore: the bare ones are the arguments
  told AS NOT MATERIALIZED (
    SELECT texts.* EXCLUDE (_pos), picks._score, picks._rank, picks._adjusted_score,
           picks._agreeing, picks._first
    FROM picks JOIN texts ON texts._pos = picks._pos
    -- looked at whatever the table holds: a wrong argument is never an empty result
    UNION ALL BY NAME
    SELECT NULL AS _first
    WHERE pref_best_refusal(k, pick, scope, seed, beta, length_control,
      -- by its type, which an empty table has too
      (SELECT typeof(any_value(_found.further)) = 'BOOLEAN' FROM numbered)) IS NOT NULL
    UNION ALL BY NAME
    SELECT NULL AS _first
    FROM pref_roles_refusal('numbered', tbl, 'best_of', keep := keep,
      taken := ['prompt', 'completion', 'score', 'rank', 'adjusted_score',
        'agreeing'])
    WHERE _said IS NOT NULL)
  SELECT COLUMNS(lambda name: name NOT IN ('_first', '_none')
           AND (length_control OR name <> 'adjusted_score')
           AND (pick = 'majority' OR name <> 'agreeing')) FROM (
    SELECT _prompt AS prompt, _completion AS completion, _score AS score, _rank AS rank,
           _adjusted_score AS adjusted_score, _agreeing AS agreeing,
           * EXCLUDE (_prompt, _completion, _score, _rank, _adjusted_score, _agreeing) FROM told)
  ORDER BY _first, rank
);
