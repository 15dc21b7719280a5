"""Which models exist, where their files are, and how they are read. Knows nothing of serving."""
