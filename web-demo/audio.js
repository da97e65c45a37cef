// The page's ears and mouth: one AudioContext at the device's own rate. The microphone is a track; where the
// call carries no tracks it also goes through the capture worklet. The interviewer comes either as a track,
// played by an audio element (a voice played through WebAudio would escape some browsers' echo cancellers),
// or as samples, played by the playback worklet. An analyser on each side is for the meters only.

// 1024 samples are 21 ms at 48 kHz: one analyser window a frame or so.
const ANALYSER_SIZE = 1024;

// A machine without a sound device never says that its sound has started; the talk can be read all the same.
const SOUND_WAIT_MS = 1500;

const MICROPHONE = {
  echoCancellation: true,
  noiseSuppression: true,
  autoGainControl: true,
  channelCount: 1,
};

/**
 * Emits `chunk` (ArrayBuffer, 20 ms PCM16, only while capturing), `report` (playback), `track` (what the
 * microphone is now), `microphone-lost`, `blocked` (the browser would not let the interviewer sound).
 */
export class Sound extends EventTarget {
  /** @param {{voice: HTMLAudioElement}} options `voice` plays the interviewer's track */
  constructor({ voice }) {
    super();
    this.voice = voice;
    this.context = null;
    this.stream = null;
    this.muted = false;
    this.capturing = false;
    this.speakerId = "";
    this.flushes = 0;
    this.waiting = new Map();
    // A phone suspends the sound of a page in the background; it has to be asked back.
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.context?.resume().catch(() => {});
    });
    this.stats = { peak: 0, ranDry: 0, dropped: 0, chunks: 0 };
  }

  /**
   * Opens the sound output. Call it from a click: browsers start no audio without one.
   * Where there is no audio worklet (an insecure address), `optional` leaves the socket's voice silent.
   */
  async start({ optional = false } = {}) {
    if (this.context) return;
    const context = new AudioContext({ latencyHint: "interactive" });
    this.context = context;
    await Promise.race([context.resume(), new Promise((next) => setTimeout(next, SOUND_WAIT_MS))]);
    this.outputAnalyser = analyser(context);
    this.inputAnalyser = analyser(context);
    // Who types still has a track: it is silent, and a microphone may take its place in mid-call.
    [this.silence] = context.createMediaStreamDestination().stream.getAudioTracks();
    if (!context.audioWorklet) {
      if (optional) return;
      throw new DOMException("no audio worklet", "NotSupportedError");
    }
    const here = (name) => new URL(name, import.meta.url);
    await Promise.all([
      context.audioWorklet.addModule(here("capture-worklet.js")),
      context.audioWorklet.addModule(here("playback-worklet.js")),
    ]);
    this.player = new AudioWorkletNode(context, "viva-playback", {
      numberOfInputs: 0,
      outputChannelCount: [1],
    });
    this.player.port.onmessage = ({ data }) => this.fromPlayer(data);
    this.player.connect(this.outputAnalyser);
    this.player.connect(context.destination);
  }

  /** What the call sends: the microphone, or silence in its place. */
  get track() {
    return this.stream?.getAudioTracks()[0] ?? this.silence ?? null;
  }

  /** Opens a microphone (the default one without an id); throws what `getUserMedia` throws. */
  async openMicrophone(deviceId) {
    const audio = deviceId ? { ...MICROPHONE, deviceId: { exact: deviceId } } : MICROPHONE;
    const stream = await navigator.mediaDevices.getUserMedia({ audio });
    if (!this.context) {
      stop(stream);
      return;
    }
    this.closeMicrophone();
    this.stream = stream;
    const [track] = stream.getAudioTracks();
    track.enabled = !this.muted;
    track.onended = () => this.stream === stream && this.lost();
    this.source = this.context.createMediaStreamSource(stream);
    this.source.connect(this.inputAnalyser);
    this.setCapturing(this.capturing);
    this.emit("track", track);
  }

  /** Whether the microphone is also wanted as chunks: the WebSocket has no other way. */
  setCapturing(wanted) {
    this.capturing = wanted;
    if (!this.source) return;
    if (!wanted) {
      if (this.capture) this.source.disconnect(this.capture);
      this.capture?.port.postMessage("stop");
      this.capture = null;
      return;
    }
    this.capture ??= this.makeCapture();
    this.source.connect(this.capture);
  }

  makeCapture() {
    const capture = new AudioWorkletNode(this.context, "viva-capture", { numberOfOutputs: 0 });
    capture.port.onmessage = ({ data }) => {
      this.stats.chunks += 1;
      this.emit("chunk", data);
    };
    return capture;
  }

  closeMicrophone() {
    this.source?.disconnect();
    this.source = null;
    if (this.stream) stop(this.stream);
    this.stream = null;
  }

  lost() {
    this.closeMicrophone();
    if (this.track) this.emit("track", this.track);
    this.emit("microphone-lost", null);
  }

  get microphoneId() {
    return this.stream?.getAudioTracks()[0]?.getSettings().deviceId ?? "";
  }

  /** Muted, the track itself is off: silence leaves the page and the server's clock goes on. */
  setMuted(muted) {
    this.muted = muted;
    for (const track of this.stream?.getAudioTracks() ?? []) track.enabled = !muted;
  }

  get canChooseSpeaker() {
    return "setSinkId" in this.voice || (typeof AudioContext !== "undefined" && "setSinkId" in AudioContext.prototype);
  }

  async setSpeaker(deviceId) {
    this.speakerId = deviceId;
    if (this.voice.setSinkId) await this.voice.setSinkId(deviceId);
    if (this.context?.setSinkId) await this.context.setSinkId(deviceId);
  }

  /** Plays the interviewer's track, or none. */
  async playStream(stream) {
    this.remote?.disconnect();
    this.remote = null;
    this.voice.srcObject = stream;
    if (!stream || !this.context) return;
    this.remote = this.context.createMediaStreamSource(stream);
    this.remote.connect(this.outputAnalyser);
    await this.voice.play().catch((error) => {
      if (error.name === "NotAllowedError") this.emit("blocked", null);
    });
  }

  /** Queues `pcm` (ArrayBuffer, 24 kHz PCM16 mono) of `item`. The buffer is handed over. */
  play(item, pcm) {
    this.player?.port.postMessage({ type: "audio", item, pcm }, [pcm]);
  }

  /** Silences what is queued without losing a sample of it, or lets it go on. */
  hold(held) {
    this.player?.port.postMessage({ type: "hold", held });
  }

  /**
   * Drops what is queued of `item`, or of all items without one.
   * @returns {Promise<Record<string, number>>} milliseconds really heard, by item
   */
  flush(item = null) {
    if (!this.player) return Promise.resolve({});
    this.flushes += 1;
    const id = this.flushes;
    this.player.port.postMessage({ type: "flush", id, item });
    return new Promise((resolve) => this.waiting.set(id, resolve));
  }

  fromPlayer(message) {
    // What left the worklet but not yet the loudspeaker was not heard; a wireless one adds a lot.
    const { outputLatency = 0, baseLatency = 0 } = this.context ?? {};
    const late = (outputLatency || baseLatency || 0) * 1000;
    if (message.type === "flushed") {
      const heard = {};
      for (const [item, ms] of Object.entries(message.played)) {
        heard[item] = Math.max(0, Math.round(ms - (message.cut ? late : 0)));
      }
      this.waiting.get(message.id)?.(heard);
      this.waiting.delete(message.id);
      return;
    }
    this.stats.peak = Math.max(this.stats.peak, message.peak);
    this.stats.ranDry = message.ranDry;
    this.stats.dropped = message.dropped;
    this.emit("report", { ...message, heardMs: Math.max(0, message.playedMs - late) });
  }

  async stop() {
    this.closeMicrophone();
    this.playStream(null);
    this.capture?.port.postMessage("stop");
    this.capture = null;
    this.capturing = false;
    this.player = null;
    this.silence = null;
    this.outputAnalyser = null;
    this.inputAnalyser = null;
    for (const resolve of this.waiting.values()) resolve({});
    this.waiting.clear();
    const context = this.context;
    this.context = null;
    await context?.close();
  }

  emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

function analyser(context) {
  const node = context.createAnalyser();
  node.fftSize = ANALYSER_SIZE;
  node.smoothingTimeConstant = 0;
  return node;
}

function stop(stream) {
  for (const track of stream.getTracks()) {
    track.onended = null;
    track.stop();
  }
}
