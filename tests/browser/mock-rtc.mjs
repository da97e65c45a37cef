// A WebRTC server in the test's own hands: a second, real RTCPeerConnection inside the page answers the
// page's offers, so that ICE, DTLS, Opus and the data channel are Chromium's own. Only the HTTP around them is
// played. Events have the real server's shapes.

export class MockPeer {
  /** @param {import("playwright-core").Page} page */
  constructor(page) {
    this.page = page;
  }

  async install(options = {}) {
    await this.page.addInitScript(peer, options);
    return this;
  }

  /** Runs in the page with the mock as its argument. */
  run(work, argument) {
    return this.page.evaluate(`(${work})(window.vivaMock, ${JSON.stringify(argument ?? null)})`);
  }

  send(...events) {
    return this.run((mock, list) => mock.send(...list), events);
  }

  requests() {
    return this.run((mock) => mock.requests);
  }

  async of(type) {
    return (await this.run((mock) => mock.received)).filter((event) => event.type === type);
  }

  /** The interviewer begins: words at once, the voice on its track until `quiet`. */
  speaks(item, text) {
    return this.run((mock, [id, words]) => mock.speaks(id, words), [item, text]);
  }

  quiet(item, how = "stopped") {
    return this.run((mock, [id, end]) => mock.quiet(id, end), [item, how]);
  }
}

/** Runs in the page before any of its own scripts. */
function peer(options) {
  const mock = {
    offer: { webrtc: true, ice_servers: [], ...options.offer },
    requests: [],
    received: [],
    peers: [],
    pagePeers: [],
    tokens: 0,
    // What the next requests are answered with instead, by method: {POST: [{status, body}], …}.
    refuse: {},
    blocked: options.blocked ?? false,
    session: "sess_mock",
  };
  window.vivaMock = mock;

  const RealPeer = window.RTCPeerConnection;
  let making = false;
  window.RTCPeerConnection = function (...args) {
    const made = new RealPeer(...args);
    if (!making) mock.pagePeers.push(made);
    return made;
  };

  const realFetch = window.fetch.bind(window);
  window.fetch = async (input, init = {}) => {
    const url = new URL(input instanceof Request ? input.url : input, location.href);
    if (url.pathname === "/v1/realtime/ice") return Response.json(mock.offer);
    const call = /^\/v1\/realtime\/calls(?:\/(\w+))?$/.exec(url.pathname);
    if (!call) return realFetch(input, init);
    const method = init.method ?? "GET";
    mock.requests.push({ method, path: url.pathname, query: Object.fromEntries(url.searchParams), headers: { ...init.headers }, body: init.body ?? null });
    const refused = mock.refuse[method]?.shift();
    if (refused === "network") throw new TypeError("Failed to fetch");
    if (refused) return Response.json(refused.body ?? {}, { status: refused.status, headers: refused.headers ?? {} });
    if (method === "DELETE") return new Response(null, { status: 200 });
    if (method === "PATCH") return mock.renew(init.body);
    return mock.answer(init.body, url.searchParams.get("resume"));
  };

  mock.answer = async (sdp, resume) => {
    making = true;
    const server = new RealPeer();
    making = false;
    mock.peers.push(server);
    mock.context ??= new AudioContext();
    const out = mock.context.createMediaStreamDestination();
    mock.voice = mock.context.createGain();
    mock.voice.gain.value = 0;
    const tone = new OscillatorNode(mock.context, { frequency: 220 });
    tone.connect(mock.voice).connect(out);
    tone.start();
    server.addTrack(out.stream.getAudioTracks()[0]);
    server.ontrack = ({ track }) => mock.listen(track);
    server.ondatachannel = ({ channel }) => {
      mock.channel = channel;
      channel.onmessage = ({ data }) => mock.received.push(JSON.parse(data));
      if (channel.readyState === "open") mock.greet(resume);
      else channel.onopen = () => mock.greet(resume);
    };
    await server.setRemoteDescription({ type: "offer", sdp });
    await mock.settle(server);
    const headers = { "Content-Type": "application/sdp", Location: `/v1/realtime/calls/rtc_${mock.peers.length}`, ETag: '"1"' };
    return new Response(mock.shown(server), { status: 201, headers });
  };

  mock.renew = async (sdp) => {
    const server = mock.peers.at(-1);
    await server.setRemoteDescription({ type: "offer", sdp });
    await mock.settle(server);
    return new Response(mock.shown(server), { status: 200, headers: { ETag: '"2"' } });
  };

  mock.settle = async (server) => {
    await server.setLocalDescription();
    const end = Date.now() + 3000;
    while (server.iceGatheringState !== "complete" && Date.now() < end) await new Promise((next) => setTimeout(next, 20));
  };

  // Blocked, the answer names a port that nobody listens on: HTTP works and UDP does not come through.
  mock.shown = (server) => {
    const { sdp } = server.localDescription;
    return mock.blocked ? sdp.replace(/^(a=candidate:\S+ \d \S+ \d+ )\S+ \d+/gm, "$1127.0.0.1 9") : sdp;
  };

  mock.greet = (resume) => {
    mock.send({ type: "session.created", event_id: "e0", session: { id: mock.session } });
    mock.token();
    if (resume) mock.send({ type: "viva.resumed", session_id: mock.session, away_ms: 1200 });
  };

  mock.token = () => {
    if (options.tokens === false) return;
    mock.tokens += 1;
    mock.send({ type: "viva.resume", token: `token_${mock.tokens}`, expires_in_s: 30 });
  };

  mock.send = (...events) => events.forEach((event) => mock.channel.send(JSON.stringify(event)));

  mock.listen = (track) => {
    const stream = new MediaStream([track]);
    // Chromium feeds WebAudio from a remote track only where an element plays it.
    mock.ear = Object.assign(new Audio(), { muted: true, srcObject: stream });
    mock.ear.play().catch(() => {});
    mock.heard = mock.context.createAnalyser();
    mock.context.createMediaStreamSource(stream).connect(mock.heard);
  };

  /** The loudest sample of the caller's voice over `ms`. */
  mock.loudest = async (ms) => {
    const samples = new Float32Array(mock.heard.fftSize);
    let peak = 0;
    for (const end = Date.now() + ms; Date.now() < end; ) {
      mock.heard.getFloatTimeDomainData(samples);
      for (const sample of samples) peak = Math.max(peak, Math.abs(sample));
      await new Promise((next) => setTimeout(next, 15));
    }
    return peak;
  };

  mock.speaks = (item, text) => {
    const part = { response_id: `resp_${item}`, item_id: item, output_index: 0, content_index: 0 };
    const shown = { id: item, type: "message", role: "assistant", status: "in_progress", content: [] };
    mock.text = text;
    mock.send(
      { type: "response.created", response: { id: part.response_id, status: "in_progress", output: [] } },
      { type: "response.output_item.added", response_id: part.response_id, output_index: 0, item: shown },
      { type: "conversation.item.added", item: shown },
      { type: "viva.state", state: "speaking" },
      { type: "response.output_audio_transcript.delta", ...part, delta: text },
      { type: "output_audio_buffer.started", response_id: part.response_id },
    );
    mock.voice.gain.value = 0.5;
  };

  mock.quiet = (item, how) => {
    const part = { response_id: `resp_${item}`, item_id: item, output_index: 0, content_index: 0 };
    mock.voice.gain.value = 0;
    const status = how === "cleared" ? "cancelled" : "completed";
    mock.send(
      { type: `output_audio_buffer.${how}`, response_id: part.response_id },
      { type: "response.output_audio_transcript.done", ...part, transcript: mock.text },
      { type: "response.done", response: { id: part.response_id, status, output: [{ id: item }] } },
      { type: "viva.state", state: "listening" },
    );
  };

  /** Makes the page believe that its ICE is in this state; null gives the real one back. */
  mock.ice = (state) => {
    const at = mock.pagePeers.at(-1);
    if (state === null) delete at.iceConnectionState;
    else Object.defineProperty(at, "iceConnectionState", { configurable: true, get: () => state });
    at.dispatchEvent(new Event("iceconnectionstatechange"));
  };
}
