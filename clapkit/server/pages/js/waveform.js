// The waveform of a whole file, drawn by wavesurfer.js; what plays is the one player of the page.

import RegionsPlugin from "../vendor/regions.esm.js";
import WaveSurfer from "../vendor/wavesurfer.esm.js";
import { colour } from "./dom.js";

const RATE_HZ = 8000; // enough to see it, and little to hold
const COLUMNS = 1600;
const MOST_BYTES = 40e6; // beyond it, a browser would hold gigabytes of samples
const KEPT = 24;

export class Waveform {
  #api;
  #kept = new Map(); // id -> {peaks, duration_s}
  #drawn = null;
  #regions = null;

  constructor(api) {
    this.#api = api;
  }

  /** Peaks and duration of the file of a row; null for a file that is too large for it. */
  async peaks(id, { signal }) {
    const kept = this.#kept.get(id);
    if (kept) return kept;
    const answer = await this.#api.fetch(`audio/${encodeURIComponent(id)}`, { signal });
    if (Number(answer.headers.get("content-length")) > MOST_BYTES) {
      await answer.body?.cancel();
      return null;
    }
    const context = new OfflineAudioContext(1, 1, RATE_HZ);
    const sound = await context.decodeAudioData(await answer.arrayBuffer());
    const made = { peaks: peaksOf(sound.getChannelData(0)), duration_s: sound.duration };
    this.#kept.set(id, made);
    if (this.#kept.size > KEPT) this.#kept.delete(this.#kept.keys().next().value);
    return made;
  }

  /** Draw peaks into an element. Clicks into it are not listened to here. */
  draw(container, { peaks, duration_s }) {
    this.clear();
    this.#regions = RegionsPlugin.create();
    this.#drawn = WaveSurfer.create({
      container,
      peaks: [peaks],
      duration: duration_s,
      height: 72,
      normalize: true,
      waveColor: colour("--wave"),
      progressColor: colour("--accent"),
      cursorColor: colour("--text"),
      cursorWidth: 1,
      interact: false,
      cspNonce: document.querySelector('meta[name="csp-nonce"]').content,
      plugins: [this.#regions],
    });
  }

  /** Mark stretches: {start_s, end_s, strength}, strength 0 to 1. */
  mark(stretches) {
    this.#regions?.clearRegions();
    for (const { start_s, end_s, strength } of stretches) {
      const opacity = Math.round(20 + 30 * strength);
      this.#regions?.addRegion({
        start: start_s,
        end: end_s,
        color: `color-mix(in srgb, ${colour("--mark")} ${opacity}%, transparent)`,
        drag: false,
        resize: false,
      });
    }
  }

  /** Put the cursor at a time. */
  at(time_s) {
    this.#drawn?.setTime(time_s);
  }

  clear() {
    this.#drawn?.destroy();
    this.#drawn = null;
    this.#regions = null;
  }
}

/** The sample of largest size in each of at most 1600 columns. */
function peaksOf(samples) {
  const columns = Math.min(COLUMNS, samples.length);
  const peaks = new Float32Array(columns);
  for (let column = 0; column < columns; column += 1) {
    const stop = Math.floor(((column + 1) * samples.length) / columns);
    for (let n = Math.floor((column * samples.length) / columns); n < stop; n += 1) {
      if (Math.abs(samples[n]) > Math.abs(peaks[column])) peaks[column] = samples[n];
    }
  }
  return peaks;
}
