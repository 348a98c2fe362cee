"""
A chat: what people can open to see aesm at work, and an example of a handler with
rules of its own.

L{aesm.chat.rules} says who may do what, upon L{aesm.chat.presence}, who is where and
under which L{name<aesm.chat.names>}, all without I/O; L{aesm.chat.replica} makes one
chat of what several processes are told, and L{aesm.chat.handler} puts it into a
server.  L{aesm.chat.client} is what every client needs; L{aesm.commands.chat} runs it
in a L{terminal<aesm.chat.terminal>}, which needs C{prompt_toolkit}, in a
L{window<aesm.chat.window>}, which needs C{tkinter}, or line by line.
"""
