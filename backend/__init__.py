"""Tenfold's backend: the engine, and every room of the product that is not a page."""
