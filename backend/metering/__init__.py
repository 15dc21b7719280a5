"""What every request cost, how long it took, and what was saved: one ledger for console, API, jobs and lab."""
