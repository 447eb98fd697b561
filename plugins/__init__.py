"""The deformable convolution: its definition as an operator, and its native implementations."""
