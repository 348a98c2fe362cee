"""
C{python -m aesm} is C{aesm}.
"""

import sys

from aesm.commands.cli import main

sys.exit(main())
