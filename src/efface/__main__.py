"""`python -m efface` is the command `efface`."""

import sys

from efface.cli import main

sys.exit(main())
