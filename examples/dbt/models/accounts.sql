-- What became of every row of feedback: rows_in = rows_used + rows_not_selected + what is dropped.
SELECT * FROM pair_report('{{ ref("feedback") }}', chosen_min := 4, rejected_below := 4)
