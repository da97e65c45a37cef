// The network between the page and the server's UDP port, in the test's own hands: it may be dead for a while,
// or lose packets and be late with them. The server is told that peers find it at this address.
import { createSocket } from "node:dgram";

// A call has one address in the browser, and another after a restart; more than this is not one test's.
const PEERS_MAX = 64;

export class Relay {
  constructor() {
    this.dead = false;
    this.loss = 0;
    this.jitterMs = 0;
    this.peers = new Map();
    this.passed = 0;
  }

  async open() {
    this.front = createSocket("udp4");
    this.front.on("message", (packet, from) => this.inward(packet, from));
    await new Promise((ready) => this.front.bind(0, "127.0.0.1", ready));
    return this;
  }

  get address() {
    return `127.0.0.1:${this.front.address().port}`;
  }

  /** Where the server really listens: the UDP port that has its HTTP port's number. */
  toward(url) {
    this.target = Number(new URL(url).port);
  }

  inward(packet, { address, port }) {
    const name = `${address}:${port}`;
    if (!this.peers.has(name)) {
      if (this.peers.size >= PEERS_MAX) return;
      const back = createSocket("udp4");
      back.on("message", (answer) => this.pass(() => this.front.send(answer, port, address)));
      this.peers.set(name, back);
    }
    this.pass(() => this.peers.get(name)?.send(packet, this.target, "127.0.0.1"));
  }

  pass(send) {
    if (this.dead || Math.random() < this.loss) return;
    this.passed += 1;
    if (this.jitterMs === 0) send();
    else setTimeout(send, Math.random() * this.jitterMs);
  }

  close() {
    for (const socket of this.peers.values()) socket.close();
    this.peers.clear();
    this.front.close();
  }
}
