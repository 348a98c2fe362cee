"""
What the command lines of clients and servers have in common.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable

from twisted.internet.interfaces import (
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.plugin import getPlugins
from twisted.python import usage

from aesm.commands.command import NotUsable, parameter
from aesm.errors import KeyFileError
from aesm.text import escape
from aesm.trust.files import expanded, stateDirectory
from aesm.trust.keys import PrivateKey

DEFAULT_NAME = "aesm"
DEFAULT_LISTEN = "tcp:8765:interface=127.0.0.1"
NAME_OPTION = parameter(
    "name", "Name of the application, the same at both sides.", DEFAULT_NAME
)
CLUSTER_OPTIONS = [
    parameter(
        "cluster",
        "Redis in which the nodes of a cluster keep their sessions: redis://HOST:PORT, "
        "rediss://, redis+unix:///PATH or redis+sentinel://HOST,HOST,HOST/NAME.",
    ),
    parameter("cluster-name", "What the cluster is called there.", "aesm"),
    parameter("cluster-password", "File of the engine's password, mode 0600."),
]
# What Python says of an endpoint string's words, which are arguments to it.
_PYTHON_SAYS = {
    re.compile(pattern): words
    for pattern, words in (
        (r"\(\) got an unexpected keyword argument '(\w+)'$", "{}: has no {}="),
        (r"\(\) got multiple values for argument '(\w+)'$", "{}: has one {} only"),
        (r"\(\) missing \d+ required .* arguments?: (.+)$", "{}: needs a {}"),
        (r"\(\) takes .* arguments? but (\d+) .* given$", "{}: has not so many words"),
        (r"^invalid literal for int\(\) .*: (.+)$", "{}: {!r} is not a number"),
        (r"^could not convert string to float: (.+)$", "{}: {!r} is not a number"),
    )
}

# A word by itself, in an error's text, and what marks it as a name in code.
_WORD = re.compile(r"(?<![^\s(])(\w+)(=?)(?=[\s,;:.)]|$)")


def inCode(option: str) -> str:
    """Spell an option as an argument in code: C{"max-message"} as C{"maxMessage"}."""
    first, *others = option.split("-")
    return first + "".join(map(str.capitalize, others))


def inOptions(error: str, options: Iterable[str]) -> str:
    """
    Put the words of an error about arguments in code into those of a command line.

    @param options: that there are.
    @return: one line.  Arguments in code are what it begins with, words with a C{=}
        behind them, and those that are in mixed case.
    """
    spelling = {inCode(option): f"--{option}" for option in options}

    def spelled(match: re.Match[str]) -> str:
        """Spell what is an option's name, and nothing else in this place."""
        word, follows = match[1], match[2]
        isName = not match.start() or follows or not word.islower()
        if word not in spelling or not isName:
            return match[0]
        return spelling[word] + follows.removesuffix("=")

    return _WORD.sub(spelled, escape(error))


def endpointReason(text: str, error: Exception) -> str:
    """
    Say why an endpoint's string means none, where the error has words of Python for it.

    @param text: the string.
    @param error: what parsing it has raised.
    """
    said = escape(str(error))
    kind = text.partition(":")[0]
    if said.startswith("Unknown endpoint type") and isForServers(kind):
        return f"{kind}: is for servers only"
    for pattern, words in _PYTHON_SAYS.items():
        if match := pattern.search(said):
            return words.format(kind, match[1].replace("'", ""))
    return said


def isForServers(kind: str) -> bool:
    """Tell whether there are server endpoints that begin so."""
    plugins = getPlugins(IStreamServerEndpointStringParser)
    return any(plugin.prefix == kind for plugin in plugins)


def listenEndpoint(
    option: str, text: str, parse: Callable[[object, str], IStreamServerEndpoint]
) -> IStreamServerEndpoint:
    """
    Parse an endpoint's string, which was given with an option.

    @param parse: is called with the reactor and the string.
    @raise usage.UsageError: it means none; says why.
    """
    from twisted.internet import reactor

    try:
        return parse(reactor, text)
    except Exception as error:  # a plugin's code may parse it
        if text.startswith("systemd:") and isinstance(error, LookupError):
            # Twisted wants all three variables, though sd_listen_fds(3) does not.
            raise NotUsable(
                f"--{option} '{escape(text)}': no such socket was handed over; what "
                "starts us sets LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES, which "
                "names each, with colons in between"
            ) from None
        raise usage.UsageError(
            f"--{option} '{escape(text)}' is no server endpoint "
            f"({endpointReason(text, error)}); name one such as {DEFAULT_LISTEN}"
        ) from None


def ownKey(path: str | None) -> PrivateKey | None:
    """
    Read the key that an option C{--key} names.

    One that is missing is made in the state directory only, where the program
    keeps what it makes.  Elsewhere it is a mistyped path, or a volume that is not
    there, and a new key would be a new identity that nobody asked for.

    @param path: None if the option is not given.
    @return: the key; None if the option is not given.
    @raise KeyFileError: the file cannot be used, or is missing.
    """
    if path is None:
        return None
    try:
        ours = os.path.realpath(stateDirectory())
    except KeyFileError:  # whoever has no home names all files, and makes them before
        return PrivateKey.load(path)
    if os.path.dirname(os.path.realpath(expanded(path))) == ours:
        return PrivateKey.loadOrCreate(path)
    return PrivateKey.load(path)
