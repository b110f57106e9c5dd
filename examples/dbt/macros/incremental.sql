{#- What an incremental model over prompts needs besides its query: a table of the rows that it has
    seen (NAME__seen), and one of the prompts whose rows are others now (NAME__changed). -#}

{% macro beside(model, what) -%}
{{ model.incorporate(path={"identifier": model.identifier ~ "__" ~ what}) }}
{%- endmacro %}

{#- Before the query: finds the prompts with new, changed or deleted rows, and deletes what the
    model has of them. Equality of rows decides. -#}
{% macro forget_changed_prompts(source, columns) %}
{% if is_incremental() %}
{% set names = columns | join(", ") %}
CREATE OR REPLACE TABLE {{ beside(this, "changed") }} AS
SELECT DISTINCT prompt FROM (
  (SELECT {{ names }} FROM {{ source }} EXCEPT ALL SELECT {{ names }} FROM {{ beside(this, "seen") }})
  UNION ALL
  (SELECT {{ names }} FROM {{ beside(this, "seen") }} EXCEPT ALL SELECT {{ names }} FROM {{ source }})
) WHERE prompt IS NOT NULL;
DELETE FROM {{ this }} WHERE prompt IN (FROM {{ beside(this, "changed") }});
{% endif %}
{% endmacro %}

{#- After it: the rows that the model is made of. -#}
{% macro keep_seen_rows(source, columns) %}
CREATE OR REPLACE TABLE {{ beside(this, "seen") }} AS
SELECT {{ columns | join(", ") }} FROM {{ source }};
{% endmacro %}
