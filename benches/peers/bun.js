// WebSocket on Bun's uWebSockets: echo on /ws, topics on /ws/TOPIC. Started by `ringmill compare` where bun is installed.
const [host, port, deflate] = process.argv.slice(2);

Bun.serve({
    hostname: host,
    port: Number(port),
    fetch(request, server) {
        const path = new URL(request.url).pathname;
        const topic = path.startsWith("/ws/") ? path.slice("/ws/".length) : "";
        if (server.upgrade(request, { data: { server, topic } })) return;
        return new Response("a WebSocket is here\n", { status: 400 });
    },
    websocket: {
        perMessageDeflate: deflate === "deflate" ? { compress: "shared", decompress: "shared" } : false,
        open(socket) {
            if (socket.data.topic) socket.subscribe(socket.data.topic);
        },
        message(socket, message) {
            const { server, topic } = socket.data;
            if (topic) server.publish(topic, message, deflate === "deflate");
            else socket.send(message);
        },
    },
});
