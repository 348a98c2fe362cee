"""
C{python -m aesm} is C{aesm}.
"""

import sys

from aesm.cli import main

sys.exit(main())
