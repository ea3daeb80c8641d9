// Queries while people type: the last one counts, and those that it overtakes are cancelled.

import { isAbort } from "./api.js";
import { isEmpty, searchParams } from "./state.js";

const WAIT_MS = 180;

export class Search {
  #api;
  #tell;
  #running = null;
  #timer = 0;

  /** `tell` has `loading()`, `found(answer, took_ms)`, `failed(error)` and `nothing()`. */
  constructor(api, tell) {
    this.#api = api;
    this.#tell = tell;
  }

  /** Ask when no other question has come for a moment. */
  soon(state, sound) {
    this.#stop();
    if (isEmpty(state) && !sound) this.now(state, sound);
    else this.#timer = setTimeout(() => this.now(state, sound), WAIT_MS);
  }

  /** Ask at once. */
  async now(state, sound) {
    this.#stop();
    if (isEmpty(state) && !sound) {
      this.#tell.nothing();
      return;
    }
    const running = new AbortController();
    this.#running = running;
    const began_ms = performance.now();
    this.#tell.loading();
    try {
      const answer = await this.#ask(state, sound, running.signal);
      if (this.#running === running) this.#tell.found(answer, performance.now() - began_ms);
    } catch (error) {
      if (!isAbort(error) && this.#running === running) this.#tell.failed(error);
    }
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#running?.abort();
    this.#running = null;
  }

  async #ask(state, sound, signal) {
    const params = searchParams(state);
    if (sound) return this.#api.post("search", [["sound", sound], ...params], { signal });
    return this.#api.get("search", params, { signal });
  }
}
