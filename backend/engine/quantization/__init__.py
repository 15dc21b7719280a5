"""How weights come to be held in fewer bits. Knows the decoder's layers, and nothing of requests."""
