"""The C++ kernels of processors, and their description for Python."""
