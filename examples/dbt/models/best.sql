-- The best answer of every prompt, for SFT.
SELECT prompt, completion, score FROM best_of('{{ ref("feedback") }}', k := 1, min_score := 4)
