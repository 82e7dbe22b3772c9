"""`python -m hadrl_lightning.cli` is `hadrl`."""

import sys

from hadrl_lightning.cli import main

sys.exit(main())
