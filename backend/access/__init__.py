"""Who may enter: hosts and origins that are trusted, keys and sign-ins, roles, and the gate before every path.

Knows settings, errors and the store; nothing of models, documents or pages.
"""
