// A part of the selected sound to search by: drawn over its waveform and spectrogram, or typed as two numbers.

import { h, iconButton } from "./dom.js";

const LEAST_PX = 5; // a pointer that moves less than that has clicked
const LEAST_S = 0.05;

/** How the server is asked for seconds of the file of a row. */
export const partOf = (id, { from_s, end_s }) => `${id}:${from_s.toFixed(2)}-${end_s.toFixed(2)}`;

/** The row of an example, and which seconds of its file, as people read them; "" where it is the row itself. */
export function readPart(example) {
  const [id, part = ""] = example.split(":");
  return { id, seconds: part && `${part.replace("-", "–")} s` };
}

export class Part {
  #act;
  #sight = null;
  #veil = null;
  #controls = null;
  #duration_s = 0;
  #chosen = null; // {from_s, end_s}
  #drag = null; // {pointer, from_s, left}

  /** `act` has `seek(time_s)`, and `play(part)`, `similar(part)`, `add(part)` with a part {from_s, end_s}. */
  constructor(act) {
    this.#act = act;
  }

  /** Begin with another sound, over the element that shows it; the controls to put below it. */
  over(sight) {
    this.#sight = sight;
    this.#duration_s = 0;
    this.#chosen = this.#drag = null;
    this.#veil = h("div", { class: "chosen", hidden: true });
    sight.append(this.#veil);
    sight.addEventListener("pointerdown", (event) => this.#down(event));
    sight.addEventListener("pointermove", (event) => this.#move(event));
    sight.addEventListener("pointerup", (event) => this.#up(event));
    sight.addEventListener("pointercancel", () => (this.#drag = null));
    this.#controls = this.#build();
    this.#show();
    return this.#controls.section;
  }

  /** How long the sound is: before that is known, nothing can be chosen. */
  length(duration_s) {
    this.#duration_s = duration_s;
    for (const field of [this.#controls.from, this.#controls.to]) field.max = duration_s.toFixed(2);
    this.#controls.from.placeholder = "0.00";
    this.#controls.to.placeholder = duration_s.toFixed(2);
  }

  /** Let the part begin (or end) at a time; the other end stays, if it still can. */
  beginAt(time_s) {
    const end_s = this.#chosen && this.#chosen.end_s > time_s ? this.#chosen.end_s : this.#duration_s;
    this.#choose(time_s, end_s);
  }

  endAt(time_s) {
    const from_s = this.#chosen && this.#chosen.from_s < time_s ? this.#chosen.from_s : 0;
    this.#choose(from_s, time_s);
  }

  /** Search by the part, if one is chosen. */
  search() {
    if (this.#chosen) this.#act.similar(this.#chosen);
  }

  #build() {
    const field = (name, label) =>
      h("input", {
        type: "number",
        id: `part-${name}`,
        min: 0,
        step: 0.1,
        inputmode: "decimal",
        "aria-label": label,
        on: {
          input: () => this.#typed(),
          keydown: (event) => event.key === "Enter" && this.search(),
        },
      });
    const [from, to] = [field("from", "The part begins, in seconds"), field("to", "The part ends, in seconds")];
    const buttons = [
      iconButton("play", "Play the part", () => this.#act.play(this.#chosen)),
      iconButton("add", "Add the part to the query as an example", () => this.#act.add(this.#chosen)),
      iconButton("close", "No part", () => this.#clear()),
    ];
    const search = h("button", { type: "button", class: "primary", text: "Find similar", on: { click: () => this.search() } });
    const hint = h("p", { class: "quiet hint", text: "Drag over the waveform, or type seconds, to search by a part." });
    const head = h("div", { class: "line" }, h("h3", { text: "Search by a part" }), buttons);
    const line = h("div", { class: "range" }, from, h("span", { text: "to" }), to, h("span", { text: "s" }), search);
    const section = h("section", { class: "part cut" }, head, line, hint);
    return { section, from, to, hint, buttons: [search, ...buttons] };
  }

  #typed() {
    const { from, to } = this.#controls;
    const from_s = from.value === "" ? 0 : from.valueAsNumber;
    const end_s = to.value === "" ? this.#duration_s : to.valueAsNumber;
    const isNone = (from.value === "" && to.value === "") || !(from_s >= 0 && end_s - from_s >= LEAST_S);
    this.#chosen = isNone ? null : { from_s, end_s: Math.min(end_s, this.#duration_s) };
    this.#show();
  }

  #choose(one_s, other_s) {
    const [from_s, end_s] = [one_s, other_s].map((time_s) => Math.min(this.#duration_s, Math.max(0, time_s))).sort((a, b) => a - b);
    if (end_s - from_s < LEAST_S) return;
    this.#chosen = { from_s, end_s };
    this.#controls.from.value = from_s.toFixed(2);
    this.#controls.to.value = end_s.toFixed(2);
    this.#show();
  }

  #clear() {
    this.#chosen = null;
    this.#controls.from.value = this.#controls.to.value = "";
    this.#show();
    this.#controls.from.focus();
  }

  #show() {
    const { hint, buttons } = this.#controls;
    this.#veil.hidden = hint.hidden = false;
    if (this.#chosen) {
      hint.hidden = true;
      this.#veil.style.setProperty("--from", this.#chosen.from_s / this.#duration_s);
      this.#veil.style.setProperty("--to", this.#chosen.end_s / this.#duration_s);
    } else this.#veil.hidden = true;
    for (const button of buttons) button.disabled = !this.#chosen;
  }

  #timeAt(event) {
    const box = this.#sight.getBoundingClientRect();
    return (this.#duration_s * (event.clientX - box.left)) / box.width;
  }

  #down(event) {
    if (event.button !== 0 || !this.#duration_s || this.#drag) return;
    this.#sight.setPointerCapture(event.pointerId);
    this.#drag = { pointer: event.pointerId, from_s: this.#timeAt(event), left: event.clientX, isDrawn: false };
  }

  #move(event) {
    const drag = this.#drag;
    if (drag?.pointer !== event.pointerId) return;
    drag.isDrawn ||= Math.abs(event.clientX - drag.left) >= LEAST_PX;
    if (drag.isDrawn) this.#choose(drag.from_s, this.#timeAt(event));
  }

  #up(event) {
    const drag = this.#drag;
    if (drag?.pointer !== event.pointerId) return;
    this.#drag = null;
    if (!drag.isDrawn) this.#act.seek(drag.from_s);
  }
}
