"""Sums as pandas frames, for reports and notebooks. pandas lives here and nowhere else.

Amounts are exact: decimal128 with twelve places, never float. Connections are the caller's, who
takes one that may only read.
"""
