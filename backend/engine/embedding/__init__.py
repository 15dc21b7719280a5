"""The embedding model's room in the engine."""
