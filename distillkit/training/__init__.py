"""Carries out a run: parts assembled, the loop, checkpoints, and what is left when it is over."""
