// npm's ws against `ringmill serve --ws-deflate --ws-contexts 64`, for tests/programs.sh: node websocket_client.js ADDRESS FOLDER_OF_WS
// Windows of all sizes, with and without what was said before; what comes back has to be what was sent.
const [address, folder] = process.argv.slice(2);
const WebSocket = require(folder);
const messages = ["", "short", "walk of words that repeat, ".repeat(50), "ä€😀".repeat(1000), "x".repeat(60000)];

function echo(perMessageDeflate, agreed) {
  const what = JSON.stringify(perMessageDeflate);
  return new Promise((done, failed) => {
    const socket = new WebSocket(`ws://${address}/ws`, { perMessageDeflate });
    const fail = problem => failed(new Error(`${what}: ${problem}`));
    let heard = 0;
    setTimeout(() => fail("nothing in 20 s"), 20000).unref();
    socket.on("error", error => fail(error));
    socket.on("open", () => {
      if (socket.extensions !== agreed) fail(`agreed on '${socket.extensions}'`);
      for (const message of [...messages, ...messages]) socket.send(message);
    });
    socket.on("message", (data, isBinary) => {
      const expected = messages[heard++ % messages.length];
      if (isBinary || data.toString() !== expected) fail(`message ${heard} is ${data.length} bytes instead of ${expected.length}`);
      if (heard === 2 * messages.length) socket.close(4000, "enough");
    });
    socket.on("close", code => (code === 4000 ? done() : fail(`closed with ${code}`)));
  });
}

async function main() {
  await echo(false, "");
  const threshold = 0;
  await echo({ threshold }, "permessage-deflate");
  for (let bits = 9; bits <= 15; bits++) {
    for (const [serverNoContextTakeover, clientNoContextTakeover] of [[false, false], [true, false], [false, true], [true, true]]) {
      const options = { threshold, serverMaxWindowBits: bits, clientMaxWindowBits: bits, serverNoContextTakeover, clientNoContextTakeover };
      await echo(options, "permessage-deflate");
    }
  }
  console.log("good");
}

main().catch(error => {
  console.log(error.message);
  process.exit(1);
});
