"""Data at rest: tables, migrations and sessions. Knows nothing of what the rows are used for."""
