"""The Legendre memory: its mathematics, its forms and its kernels."""
