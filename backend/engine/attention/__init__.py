"""Attention over the paged KV cache, one implementation a file."""
