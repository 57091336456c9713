"""`python -m energynets` is the command line."""

import sys

from energynets.cli import main

sys.exit(main())
