// The key to a server that asks for one. A link may bring it behind its #, and the lobby asks for it where the server
// does. It stays in this tab's session storage and in no address: what was behind the # is taken out of it at once.

const NAME = "viva.key";
const NOTE = "It stays in this tab, and is forgotten with it.";

function recall() {
  try {
    return sessionStorage.getItem(NAME);
  } catch {
    return null;
  }
}

function remember(key) {
  try {
    if (key) sessionStorage.setItem(NAME, key);
    else sessionStorage.removeItem(NAME);
  } catch {
    // Storage is switched off: the key lasts as long as the page.
  }
}

/** The key of the link that was opened, or the one that was typed in this tab before. */
export function held() {
  const linked = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!linked) return recall();
  remember(linked);
  history.replaceState(history.state, "", location.pathname + location.search);
  return linked;
}

export class Key {
  /**
   * @param {{find: (id: string) => HTMLElement, onKey: (key: string) => Promise<boolean>}} options `onKey` tries a
   *   key that was typed, and says whether it opens the server
   */
  constructor({ find, onKey }) {
    Object.assign(this, { find, onKey });
    find("entry").addEventListener("submit", (event) => {
      event.preventDefault();
      this.typed();
    });
  }

  /** Asks for a key, or does not any more. `wrong`: one was tried. */
  ask(asked, { wrong = false } = {}) {
    const { find } = this;
    find("entry").hidden = !asked;
    find("key-note").textContent = wrong ? "The server does not know this key, or not any more." : NOTE;
    find("key").toggleAttribute("aria-invalid", wrong);
    if (wrong) remember(null);
  }

  async typed() {
    const box = this.find("key");
    const key = box.value.trim();
    if (!key || this.trying) return;
    this.trying = true;
    try {
      const opens = await this.onKey(key);
      this.ask(!opens, { wrong: !opens });
      if (!opens) return;
      box.value = "";
      remember(key);
      this.find("start").focus();
    } finally {
      this.trying = false;
    }
  }
}
