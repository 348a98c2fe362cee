"""
The receiver of ../../file_receiver.py with Socket.IO: each piece is a call that says
where it belongs, and answers where to go on::

    python file_receiver.py FOLDER
    python file_sender.py FILE
"""

import hashlib
import os
import sys

import socketio
from aiohttp import web

server = socketio.AsyncServer(max_http_buffer_size=1 << 21)


@server.event
async def offer(sid, name):
    path = os.path.join(sys.argv[1], os.path.basename(name))
    await server.save_session(sid, path)
    return os.path.getsize(path + ".part") if os.path.exists(path + ".part") else 0


@server.event
async def piece(sid, data):
    with open(await server.get_session(sid) + ".part", "ab") as file:
        file.write(data)


@server.event
async def done(sid, digest):
    path = await server.get_session(sid)
    with open(path + ".part", "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            return False
    os.link(path + ".part", path)
    os.unlink(path + ".part")
    print("received", os.path.getsize(path), "bytes", flush=True)
    return True


application = web.Application()
server.attach(application)
web.run_app(application, host="127.0.0.1", port=8765, print=None)
