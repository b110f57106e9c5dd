"""Steps as one query, or as a LazyFrame. An engine knows no plan."""
