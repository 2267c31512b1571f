"""Runs: phases, the training loop, checkpoints, scores and export."""
