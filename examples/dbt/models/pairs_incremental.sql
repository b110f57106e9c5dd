{#- The rows of `pairs`, kept up to date: a run makes only the pairs of prompts whose rows came,
    changed or went. All of it is one transaction (macros/incremental.sql). Thresholds are given,
    because those that fit themselves to the scores would hang on all prompts. -#}
{{ config(
    materialized="incremental",
    incremental_strategy="append",
    pre_hook="{{ forget_changed_prompts(ref('feedback'), ['prompt', 'completion', 'score']) }}",
    post_hook="{{ keep_seen_rows(ref('feedback'), ['prompt', 'completion', 'score']) }}"
) }}
-- Sorted, so that answers with one score are chosen from alike in whatever order they came.
WITH fresh AS (
  FROM {{ ref("feedback") }}
  {% if is_incremental() %} WHERE prompt IN (FROM {{ beside(this, "changed") }}) {% endif %}
  ORDER BY ALL
)
SELECT * FROM preference_pairs(fresh, chosen_min := 4, rejected_below := 4)
