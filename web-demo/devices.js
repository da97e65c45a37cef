// The page's devices: what they report goes where it belongs, and what is wrong with them is said.
import { microphoneProblem, problem } from "./problems.js";

// A live microphone is never digitally silent this long: it is switched off somewhere.
const SILENT_MIC_MS = 6000;

export class Devices {
  /** @param {object} room what the page is: its audio, call, settings, views */
  constructor(room) {
    this.room = room;
    const { audio, settings } = room;
    audio.addEventListener("chunk", ({ detail }) => this.room.call?.sendAudio(detail));
    audio.addEventListener("track", ({ detail }) => this.room.call?.replaceTrack(detail));
    audio.addEventListener("report", ({ detail }) => {
      this.room.reading.heard(detail);
      this.room.perform(this.room.talk.setSounding(detail.sounding || this.room.trackSounds === true));
    });
    audio.addEventListener("microphone-lost", () => this.microphoneLost());
    audio.addEventListener("blocked", () =>
      this.room.views.banner({ title: "Your browser keeps Viva silent.", text: "It wants a click first.", label: "Let Viva speak", act: () => this.letSpeak() }));
    settings.addEventListener("microphone", ({ detail }) => this.changeMicrophone(detail));
    settings.addEventListener("speaker", ({ detail }) => this.changeSpeaker(detail));
    settings.addEventListener("announce", () => {
      this.room.captions.announce = settings.announce.checked;
    });
    this.room.meters.onFrame = (now) => {
      this.watchMicrophone(now);
      this.room.reading.frame(now);
    };
  }

  async changeMicrophone(id) {
    if (!this.room.call) return;
    try {
      await this.room.audio.openMicrophone(id);
      this.room.speak = true;
      this.room.views.speaks(true);
      this.room.views.banner(null);
    } catch (error) {
      const { title, text } = problem(microphoneProblem(error));
      this.room.views.banner({ title: `${title}.`, text });
    }
  }

  async changeSpeaker(id) {
    try {
      await this.room.audio.setSpeaker(id);
    } catch (error) {
      this.room.views.banner({ title: "That loudspeaker can’t be used.", text: error.message });
    }
  }

  letSpeak() {
    this.room.views.banner(null);
    this.room.audio.voice.play().catch(() => {});
  }

  microphoneLost() {
    this.room.views.banner({
      title: "The microphone is gone.",
      text: "It was unplugged or switched off. Choose another one, or type.",
      label: "Choose a microphone",
      act: () => this.room.settings.open(),
    });
  }

  watchMicrophone(now) {
    const since = this.room.meters.input.silentSince;
    const silent = this.room.status === "live" && !this.room.audio.muted && this.room.audio.stream && since !== null;
    const hint = Boolean(silent) && now - since > SILENT_MIC_MS;
    if (hint !== this.silentMic) {
      this.silentMic = hint;
      this.room.showState();
    }
  }
}
