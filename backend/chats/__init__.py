"""Conversations of people with the model. Knows generation and what retrieval makes of a question, not pages."""
