"""The Legendre memory, encoders and heads."""
