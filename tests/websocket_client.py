"""Python's websockets against `ringmill serve --ws-deflate --ws-contexts 64`, for tests/programs.sh: websocket_client.py ADDRESS

Every window that may be asked for, with and without what was said before; what comes back has to be what was sent.
"""

import sys
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import connect

url = f"ws://{sys.argv[1]}"
MESSAGES = ["", "short", "walk of words that repeat, " * 50, "ä€😀" * 1000, bytes(range(256)) * 100, "x" * 60_000]


def expect(what, expected, got):
    if expected != got:
        raise SystemExit(f"{what}: expected {expected!r:.300}, got {got!r:.300}")


def echo(offer, is_agreed):
    extensions = [ClientPerMessageDeflateFactory(**offer)] if offer is not None else None
    with connect(url + "/ws", extensions=extensions, compression=None, open_timeout=20, proxy=None) as socket:
        agreed = [extension.name for extension in socket.protocol.extensions]
        expect(f"extensions for {offer}", ["permessage-deflate"] if is_agreed else [], agreed)
        for message in MESSAGES * 2:
            socket.send(message)
            expect(f"echo with {offer}", message, socket.recv(20))
        # In three frames.
        socket.send(["round ", "and ", "round" * 1000])
        expect(f"fragments with {offer}", "round and " + "round" * 1000, socket.recv(20))
        expect("answer to a ping", True, socket.ping().wait(20))


echo(None, False)
for bits in [None, *range(9, 16)]:
    for ours in False, True:
        for theirs in False, True:
            echo({"server_max_window_bits": bits, "client_max_window_bits": bits or True,
                  "server_no_context_takeover": theirs, "client_no_context_takeover": ours}, True)
# Eight bits cannot be had of zlib: RFC 7692, 7.1.2.1 lets a server decline.
echo({"server_max_window_bits": 8}, False)

with connect(url + "/ws/programs", proxy=None) as one, connect(url + "/ws/programs", proxy=None) as other:
    one.send("hello")
    expect("what is said to a topic", ["hello", "hello"], [one.recv(20), other.recv(20)])

with connect(url + "/ws", max_size=None, proxy=None) as socket:
    socket.send("x" * 70_000)
    try:
        socket.recv(20)
    except ConnectionClosed as closed:
        expect("code for a message that is too long", 1009, closed.rcvd.code)
    else:
        raise SystemExit("a message that is too long was taken")
print("good")
