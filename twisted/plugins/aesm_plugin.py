"""What aesm adds to Twisted's plugins."""

from twisted.application.service import ServiceMaker

from aesm import plugins

_relay = "each message goes to every other client"
_echo = "each message goes back to its sender"
_chat = "people with names chat, in rooms and in private"
_free = "the chat, with nicks for those whose keys have names"
_inbox = "messages stay in the server, for a program that takes them"
_server = "A server of encrypted messages."
service = ServiceMaker("aesm", "aesm.commands.tap", _server, "aesm")
relay = plugins.HandlerMaker("relay", _relay, "aesm.handlers.Relay")
echo = plugins.HandlerMaker("echo", _echo, "aesm.handlers.Echo")
chat = plugins.HandlerMaker("chat", _chat, "aesm.chat.handler.ChatHandler")
free = plugins.HandlerMaker("chat-free-names", _free, "aesm.chat.handler.freeNames")
inbox = plugins.HandlerMaker("inbox", _inbox, "aesm.handlers.inbox")
server, client = plugins.ServerParser(), plugins.ClientParser()
websocket, reuseport = plugins.WebSocketParser(), plugins.ReusePortParser()
