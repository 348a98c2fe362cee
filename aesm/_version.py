"""
The version: hatchling reads it here, peers see it in the hello; and which form of the
package runs.
"""

from typing import Final

__version__ = "0.1.0"

# In a wheel whose hot modules were compiled, this one was, too.
FORM: Final = "pure Python" if __file__.endswith(".py") else "compiled"
