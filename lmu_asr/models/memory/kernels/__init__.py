"""What computes: the Legendre memory's exact evaluations, element-wise parts, packed products.

Torch forms everywhere; C++ built at first use where a compiler is found; Triton on a GPU.
"""
