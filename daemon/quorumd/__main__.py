"""`python -m quorumd` is `quorumd`."""

from quorumd.cli.main import main

main()
