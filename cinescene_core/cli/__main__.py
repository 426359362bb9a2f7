"""`python -m cinescene_core.cli`: the `cinescene` command, as torchrun starts it."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
