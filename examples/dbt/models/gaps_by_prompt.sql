-- A model over a model: how clear each pair is.
SELECT prompt, chosen_score - rejected_score AS gap FROM {{ ref("pairs") }} ORDER BY gap DESC
