// The last turn's latency: one figure, and the way it came about as a small bar plot. Every value is
// milliseconds since the candidate's last speech sample, as `metrics.turn` gives them.

const STAGES = [
  ["endpoint_ms", "End of turn decided"],
  ["asr_final_ms", "Words recognised"],
  ["llm_first_token_ms", "First token"],
  ["first_sentence_ms", "First sentence"],
  ["first_audio_ms", "First sound made"],
  ["voice_to_voice_ms", "First sound sent"],
];

/**
 * One row a stage: a bar from where the stage before it ended to where it ended itself. A stage that
 * was ready early (it ran ahead of the decision) has `from === to`: it cost the turn nothing.
 */
export function stages(metrics) {
  const rows = [];
  let reached = 0;
  for (const [key, label] of STAGES) {
    const value = metrics[key];
    if (!Number.isFinite(value)) continue;
    const to = Math.max(0, value);
    rows.push({ key, label, from: Math.min(reached, to), to, ms: Math.round(value), early: to <= reached });
    reached = Math.max(reached, to);
  }
  for (const row of rows) if (row.early) row.from = row.to;
  return { rows, total: reached };
}

export function readable(ms) {
  return Number.isFinite(ms) ? `${(ms / 1000).toFixed(2)} s` : "–";
}

export function median(values) {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  if (sorted.length === 0) return NaN;
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

export class Latency {
  constructor({ figure, plot, caption }) {
    Object.assign(this, { figure, plot, caption });
  }

  clear() {
    this.figure.textContent = "–";
    this.caption.textContent = "The plot appears after the first answer.";
    this.plot.replaceChildren();
  }

  /** `addedMs`: what the way there and back adds to each figure, which the server can't see; null if unknown. */
  show(metrics, all, addedMs = null) {
    this.figure.textContent = readable(metrics.voice_to_voice_ms);
    const { rows, total } = stages(metrics);
    this.plot.replaceChildren(...rows.map((row) => bar(row, total)));
    const middle = median(all.map((turn) => turn.voice_to_voice_ms));
    const count = all.length === 1 ? "1 turn" : `${all.length} turns`;
    const way = addedMs === null ? "" : ` The way there and back adds ${Math.round(addedMs)} ms.`;
    this.caption.textContent = `From your last word. Median of ${count}: ${readable(middle)}.${way}`;
  }
}

function bar(row, total) {
  const item = document.createElement("li");
  const label = document.createElement("span");
  label.className = "what";
  label.textContent = row.label;
  const track = document.createElement("span");
  track.className = row.early ? "track is-early" : "track";
  track.setAttribute("aria-hidden", "true");
  const part = (value) => `${total > 0 ? (100 * value) / total : 0}%`;
  track.style.setProperty("--from", part(row.from));
  track.style.setProperty("--to", part(row.to));
  const value = document.createElement("span");
  value.className = "value";
  value.textContent = `${row.ms} ms`;
  item.append(label, track, value);
  return item;
}
