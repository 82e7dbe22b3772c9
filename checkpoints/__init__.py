"""Trained agents that ship with the package, weights only; README.md tells how each was trained and what it scores."""
