// The one element that plays. Whoever plays something stops what played before.

import { isAbort } from "./api.js";

export class Player extends EventTarget {
  #api;
  #element;
  #id = null;
  #end_s = null;
  #turn = 0; // of the last request to play: what an earlier one was still fetching is thrown away
  #blob = null;

  /** Events: `change` when something starts or stops, `progress` while it plays, `problem` with a message in `detail`. */
  constructor(api, element) {
    super();
    this.#api = api;
    this.#element = element;
    for (const event of ["playing", "pause", "ended"]) element.addEventListener(event, () => this.#changed());
    element.addEventListener("playing", () => this.#follow());
  }

  /** The id of the row whose file is loaded, or null. */
  get id() {
    return this.#id;
  }

  get isPlaying() {
    return this.#id !== null && !this.#element.paused && !this.#element.ended;
  }

  get at_s() {
    return this.#element.currentTime;
  }

  plays(id) {
    return this.isPlaying && this.#id === id;
  }

  /** Play the file of a row from a time, up to `end_s` if given. */
  async play(id, { from_s = 0, end_s = null } = {}) {
    const turn = (this.#turn += 1);
    const element = this.#element;
    try {
      if (this.#id !== id || element.error) {
        element.pause();
        this.#id = id;
        const source = await this.#source(id);
        if (turn !== this.#turn) return;
        element.src = source;
      }
      this.#end_s = end_s;
      element.currentTime = from_s;
      await element.play();
    } catch (error) {
      if (turn === this.#turn && !isAbort(error)) await this.#explain(id, error);
    }
  }

  /** Stop what plays; else play a row. `at` as for `play`. */
  toggle(id, at = {}) {
    if (this.plays(id)) this.stop();
    else return this.play(id, at);
  }

  stop() {
    this.#turn += 1;
    this.#element.pause();
  }

  async #source(id) {
    const path = `audio/${encodeURIComponent(id)}`;
    if (this.#blob) URL.revokeObjectURL(this.#blob);
    this.#blob = null;
    if (!this.#api.hasKey) return path;
    // An element cannot send a key: the file is fetched whole.
    const file = await (await this.#api.fetch(path)).blob();
    this.#blob = URL.createObjectURL(file);
    return this.#blob;
  }

  async #explain(id, error) {
    let told = "This browser cannot play that kind of file. It can be downloaded.";
    if (error.name === "NotAllowedError") told = "Click somewhere on the page once: until then, the browser plays nothing.";
    else {
      try {
        await this.#api.fetch(`audio/${encodeURIComponent(id)}`, { headers: { Range: "bytes=0-0" } });
      } catch (refused) {
        told = refused.message;
      }
    }
    this.#id = null;
    this.#changed();
    this.dispatchEvent(new CustomEvent("problem", { detail: told }));
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  #follow() {
    if (!this.isPlaying) return;
    if (this.#end_s !== null && this.at_s >= this.#end_s) this.stop();
    this.dispatchEvent(new Event("progress"));
    requestAnimationFrame(() => this.#follow());
  }
}
