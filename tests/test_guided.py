"""Guided distillation: a network that takes the guidance scale as an input, how it is taught, distilled and exported."""
