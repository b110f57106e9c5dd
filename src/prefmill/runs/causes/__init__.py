"""Why a row of output is there, and what made two outputs differ: runs played again."""
