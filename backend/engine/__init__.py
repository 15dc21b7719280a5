"""The serving engine: token ids in, token ids out.

Imports torch, transformers (for loading), numpy and, where a quantization asks for it, bitsandbytes. Knows nothing of
HTTP, text, documents or SQL, so that it runs alone on a machine that has nothing else.
"""
