from twisted.internet.defer import ensureDeferred
from twisted.internet.task import react

from aesm import connect


async def main(reactor):
    client = await connect(reactor, "tcp:127.0.0.1:8766")
    await client.sendData("hello")  # the server has it
    print((await client.retrieved.get()).data)
    await client.close()


react(lambda reactor: ensureDeferred(main(reactor)))
