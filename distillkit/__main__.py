"""`python -m distillkit` is `distillkit`."""

from distillkit.cli import main

main()
