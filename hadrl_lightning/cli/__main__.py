"""`python -m hadrl_lightning.cli` is `hadrl`."""

import sys

from . import main

sys.exit(main())
