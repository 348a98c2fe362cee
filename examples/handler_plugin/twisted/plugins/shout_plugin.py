"""
Tells C{twistd aesm --handler} of L{shout.Shout}, without loading it.
"""

from aesm.plugins import HandlerMaker

shout = HandlerMaker("shout", "text comes back in capitals", "shout.Shout")
