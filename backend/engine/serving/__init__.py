"""What an engine serves with: what is installed, how it is changed, and what was asked for."""
