"""The decoder: its weights and its forward pass."""
