// A place kept in an interview: what the page must know to come back to it after it was left or loaded again.
// It lives in the tab's own storage, as short as the server keeps the interview, and is gone with the tab.

const KEY = "viva.parked";

/** @param {{token: string, seconds: number, lastEvent: string | null}} kept @param {object} talk what the page shows of the talk */
export function park(kept, talk, now = Date.now()) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify({ token: kept.token, lastEvent: kept.lastEvent, until: now + kept.seconds * 1000, talk }));
    return true;
  } catch {
    // Storage is switched off, or full: there is no way back then.
    return false;
  }
}

/** What was parked and may still be there. */
export function parked(now = Date.now()) {
  try {
    const found = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
    return found && typeof found.token === "string" && found.until > now ? found : null;
  } catch {
    return null;
  }
}

/** The token is spent, or the interview is over. */
export function unpark() {
  try {
    sessionStorage.removeItem(KEY);
  } catch {
    // Nothing was parked then.
  }
}
