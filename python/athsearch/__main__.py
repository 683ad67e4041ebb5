"""`python -m athsearch`."""

from .cli import main

main()
