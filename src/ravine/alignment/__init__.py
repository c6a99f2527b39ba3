"""Alignment: a network's units permuted to match another's, the function unchanged."""
