"""Files and folders that appear whole or not at all, and the ledger of a run that goes on."""
