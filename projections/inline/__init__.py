"""Projections that move in the append's own transaction, because decisions read them."""
