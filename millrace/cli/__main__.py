"""`python -m millrace.cli …` is `millrace …`."""

from millrace.cli import main

main()
