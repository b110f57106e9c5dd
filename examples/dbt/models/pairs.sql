-- Best against worst of every prompt, for a reward model or DPO.
SELECT * FROM preference_pairs('{{ ref("feedback") }}', chosen_min := 4, rejected_below := 4)
