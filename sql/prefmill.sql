-- All macros. In a duckdb shell, from this folder's parent:  .read sql/prefmill.sql
.read sql/pref_number.sql
.read sql/pref_spell.sql
.read sql/pref_hash.sql
.read sql/pref_mix.sql
.read sql/pref_majority.sql
.read sql/pref_judged.sql
.read sql/pref_rows.sql
.read sql/pref_candidates.sql
.read sql/pref_groups.sql
.read sql/pref_refusal.sql
.read sql/pref_pairs.sql
.read sql/pref_labels.sql
.read sql/pref_report.sql
.read sql/pref_label_report.sql
.read sql/preference_pairs.sql
.read sql/pair_report.sql
.read sql/unpaired.sql
