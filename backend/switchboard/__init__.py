"""Switches as the product keeps them: changed one at a time, and stored once they are in force."""
