// The server, asked over HTTP. Everything that can go wrong comes out as one of two errors.

import { h } from "./dom.js";

const KEY = "clapkit.key";
const TRIES = 3; // of a server that is busy

/** The server answered, and said no: `status`, and the reason in `message`. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** No answer came: the server is gone, or the network is. */
export class Gone extends Error {}

/** Whether an error only says that nobody waits for the answer any more. */
export const isAbort = (error) => error?.name === "AbortError";

export class Api {
  #key = readKey();
  #asking = null;

  /** Whether a key is sent with every request: then sounds and pictures cannot be fetched by their address alone. */
  get hasKey() {
    return this.#key !== null;
  }

  /** The JSON at a path; `params` are [name, value] pairs. */
  async get(path, params = [], { signal } = {}) {
    const query = new URLSearchParams(params).toString();
    return (await this.#ask(query ? `${path}?${query}` : path, { signal })).json();
  }

  /** The JSON that a multipart form is answered with; `params` are [name, value] pairs, a value may be a File. */
  async post(path, params, { signal } = {}) {
    const body = new FormData();
    for (const [name, value] of params) body.append(name, value);
    return (await this.#ask(path, { method: "POST", body, signal })).json();
  }

  /** The answer as it is, for pictures and sounds. */
  async fetch(path, { signal, headers } = {}) {
    return this.#ask(path, { signal, headers });
  }

  async #ask(path, options) {
    for (let tries = 0; ; tries += 1) {
      const headers = { ...options.headers, ...(this.hasKey ? { "X-API-Key": this.#key } : {}) };
      const sent = this.#key;
      let answer;
      try {
        answer = await fetch(path, { ...options, headers });
      } catch (error) {
        if (isAbort(error)) throw error;
        throw new Gone("The server does not answer");
      }
      if (answer.ok) return answer;
      if (answer.status === 401 && tries < 5) {
        if (sent === this.#key) await this.#askKey();
        continue;
      }
      if (answer.status === 429 && tries < TRIES - 1) {
        await pause(Number(answer.headers.get("retry-after")) || 1, options.signal);
        continue;
      }
      throw await refusal(answer);
    }
  }

  /** Ask for the key, once for all requests that wait for it. */
  #askKey() {
    this.#asking ??= askForKey(this.#key !== null)
      .then((key) => {
        this.#key = key;
        try {
          sessionStorage.setItem(KEY, key);
        } catch {
          // Then it is asked for again when the page is loaded again.
        }
      })
      .finally(() => {
        this.#asking = null;
      });
    return this.#asking;
  }
}

function readKey() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

/** Wait, unless nobody waits for the answer any more. */
function pause(time_s, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    setTimeout(resolve, 1000 * time_s);
    signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

async function refusal(answer) {
  try {
    return new Refused(answer.status, (await answer.json()).error.message);
  } catch {
    return new Refused(answer.status, `The server answered ${answer.status}`);
  }
}

function askForKey(wasWrong) {
  const dialog = document.getElementById("ask-key");
  const field = h("input", { type: "password", id: "key", required: true, autocomplete: "off" });
  const told = wasWrong ? "That key did not fit." : "This server wants a key. It is kept until you close the tab.";
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", { id: "ask-key-title", text: "Key" }),
    h("p", { text: told }),
    h("label", { for: "key", text: "API key" }),
    field,
    h("button", { type: "submit", class: "primary", text: "Continue" }),
  );
  dialog.replaceChildren(form);
  return new Promise((resolve, reject) => {
    form.addEventListener("submit", () => resolve(field.value), { once: true });
    dialog.addEventListener("cancel", () => reject(new Refused(401, "Without its key, this server shows nothing.")), {
      once: true,
    });
    if (!dialog.open) dialog.showModal();
  });
}
