"""
The program C{aesm}, also as C{python -m aesm}: see L{aesm.commands.cli}.

It has loaded nothing yet when it begins, so that Ctrl-C is heeded while it loads.
"""

import signal
import sys

__all__ = ["main"]

INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it


def main() -> int:
    """Run the command, and return the exit status; Ctrl-C on the way says nothing."""
    try:
        from aesm.commands.signals import endAtOnce

        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                endAtOnce(number)
        from aesm.commands.cli import main as run

        return run()
    except KeyboardInterrupt:  # before that, or of who waits for it
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
