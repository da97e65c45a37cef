// The settings dialog: microphone, loudspeaker, appearance, captions. Choices are remembered where the
// browser lets the page remember.

const KEYS = { microphone: "viva.microphone", speaker: "viva.speaker", theme: "viva.theme", announce: "viva.announce" };

function recall(name) {
  try {
    return localStorage.getItem(KEYS[name]) ?? "";
  } catch {
    return "";
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(KEYS[name], value);
  } catch {
    // Storage is switched off: the choice lasts as long as the page.
  }
}

export class Settings extends EventTarget {
  constructor({ audio, find, onTheme }) {
    super();
    this.audio = audio;
    this.onTheme = onTheme;
    this.dialog = find("settings");
    for (const name of Object.keys(KEYS)) this[name] = find(name);
    find("speaker-row").hidden = !audio.canChooseSpeaker;
    find("open-settings").addEventListener("click", () => this.open());
    this.microphone.addEventListener("change", () => this.changed("microphone"));
    this.speaker.addEventListener("change", () => this.changed("speaker"));
    this.theme.addEventListener("change", () => this.applyTheme(this.theme.value));
    this.announce.addEventListener("change", () => {
      remember("announce", this.announce.checked ? "" : "off");
      this.changed("announce");
    });
    this.announce.checked = recall("announce") !== "off";
    this.applyTheme(recall("theme"));
    navigator.mediaDevices?.addEventListener?.("devicechange", () => this.list());
  }

  get microphoneId() {
    return recall("microphone");
  }

  get speakerId() {
    return recall("speaker");
  }

  async open() {
    await this.list();
    this.dialog.showModal();
  }

  applyTheme(theme) {
    const known = theme === "light" || theme === "dark" ? theme : "";
    this.theme.value = known;
    if (known) document.documentElement.dataset.theme = known;
    else delete document.documentElement.dataset.theme;
    remember("theme", known);
    this.onTheme();
  }

  changed(name) {
    const value = this[name].value;
    if (name !== "announce") remember(name, value);
    this.dispatchEvent(new CustomEvent(name, { detail: value }));
  }

  /** Fills both lists. Names are hidden by the browser until the microphone was allowed once. */
  async list() {
    let devices = [];
    try {
      devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
    } catch {
      // A browser that lists nothing still has its default devices.
    }
    const inUse = this.audio.microphoneId || this.microphoneId;
    fill(this.microphone, devices.filter((d) => d.kind === "audioinput"), inUse, "Microphone");
    fill(this.speaker, devices.filter((d) => d.kind === "audiooutput"), this.speakerId, "Loudspeaker");
  }
}

function fill(select, devices, chosen, noun) {
  const named = devices.filter((device) => device.deviceId && device.deviceId !== "default");
  const options = [new Option("System default", "")];
  named.forEach((device, i) => options.push(new Option(device.label || `${noun} ${i + 1}`, device.deviceId)));
  select.replaceChildren(...options);
  select.value = named.some((device) => device.deviceId === chosen) ? chosen : "";
}
