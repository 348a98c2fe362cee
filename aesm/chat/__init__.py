"""
A chat: what people can open to see aesm at work, and an example of a handler with
rules of its own.

L{aesm.chat.rules} says who may do what, upon L{aesm.chat.presence}, who is where and
under which L{name<aesm.chat.names>}, all without I/O; L{aesm.chat.handler} puts it
into a server.  L{aesm.chat.client} is what every client needs;
L{aesm.commands.chat} runs it in a terminal, with a L{screen<aesm.chat.screen>}
that incoming lines do not tear and a L{line editor<aesm.chat.editor>}.
"""
