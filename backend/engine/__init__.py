"""The serving engine: token ids in, token ids out.

Imports torch, transformers (for loading), numpy and, where a quantization asks for it, bitsandbytes. Knows nothing of
HTTP, text, documents or SQL, so that it runs alone on a machine that has nothing else.
"""

import os

# The kernels have threads of their own. torch's, which do little here, must not spin on a core that those could use:
# a step of 8 sequences took 27 ms instead of 18.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
