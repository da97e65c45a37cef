// Everything that can go wrong for a caller, in words that say what happened and what to do.

/**
 * @param {string} kind
 * @param {{retryAfterS?: number, message?: string}} detail
 * @returns {{title: string, text: string, retry: boolean, type: boolean}} `retry` and `type` say
 *   whether trying again, or typing instead of speaking, can help
 */
export function problem(kind, detail = {}) {
  const known = PROBLEMS[kind] ?? PROBLEMS.refused;
  const text = typeof known.text === "function" ? known.text(detail) : known.text;
  return { retry: true, type: false, ...known, text, kind };
}

const PROBLEMS = {
  "mic-refused": {
    title: "The microphone is blocked",
    text: "Your browser was told not to share it with this page. Allow the microphone in the address bar’s site settings, then try again, or type your answers.",
    type: true,
  },
  "mic-missing": {
    title: "No microphone found",
    text: "Plug one in or switch one on, then try again. You can also type your answers and hear Viva speak.",
    type: true,
  },
  "mic-busy": {
    title: "The microphone can’t be opened",
    text: "Another program may be using it. Close that one, then try again, or type your answers.",
    type: true,
  },
  insecure: {
    title: "This address isn’t secure",
    text: "Browsers share a microphone only over https, or on localhost. Open this page that way to speak. Here you can type, and read the answers.",
    retry: false,
    type: true,
  },
  unsupported: {
    title: "This browser can’t hold the call",
    text: "It lacks the audio worklet that carries the voice. A current Firefox, Chrome, Edge or Safari has it.",
    retry: false,
    type: true,
  },
  full: {
    title: "All rooms are taken",
    text: "Viva holds as many interviews as it can answer in time, and no more. A room usually comes free soon.",
  },
  unauthorised: {
    title: "This server asks for a key",
    text: "Type the key you were given into the field below. If you did, the key is not valid, or not any more.",
  },
  unreachable: {
    title: "The server doesn’t answer",
    text: "Check your connection. If you run Viva yourself, see whether it is still running.",
  },
  lost: {
    title: "The connection is gone",
    text: "It dropped and several tries did not bring it back. What was said is still here: you can try once more, or end the interview and keep the transcript.",
  },
  expired: {
    title: "Your place could not be kept",
    text: ({ seconds }) =>
      `The server keeps an interview for ${seconds ? `${seconds} s` : "a short while"} after a connection is lost, and that time is over. You can go on in a new session, which is told what was said so far, or end here and keep the transcript.`,
  },
  unrecorded: {
    title: "This server can’t record now",
    text: ({ message }) => `${message ? `It said: ${message} ` : ""}Untick the recording below to begin without one.`,
  },
  wish: {
    title: "This interview can’t be held",
    text: ({ message }) => `Change what you chose above. The server said: ${message ?? "no reason"}`,
    type: true,
  },
  refused: {
    title: "The server turned the call down",
    text: ({ message }) =>
      message ? `It said: ${message}` : "It answers, but would not open a conversation. Its log says why.",
  },
};

/** Which problem an exception of `getUserMedia` (or of the audio's start) stands for. */
export function microphoneProblem(error) {
  if (!window.isSecureContext) return "insecure";
  switch (error?.name) {
    case "NotAllowedError":
    case "SecurityError":
      return "mic-refused";
    case "NotFoundError":
    case "OverconstrainedError":
      return "mic-missing";
    case "NotSupportedError":
    case "TypeError":
      return navigator.mediaDevices ? "unsupported" : "insecure";
    default:
      return "mic-busy";
  }
}
