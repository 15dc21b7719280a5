"""Files as they were sent: bytes by their hash."""
