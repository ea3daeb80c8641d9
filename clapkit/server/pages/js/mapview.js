// The library as a map: what sounds alike lies close together. Wheel and pinch zoom, dragging moves.

import { isAbort } from "./api.js";
import { Camera } from "./camera.js";
import { h, iconButton, nameAndFolder } from "./dom.js";
import { Painter } from "./painter.js";

const REACH = 14; // pixels from a point that still count as on it
const STEP = 60;
const SOON_S = 0.7; // a small map is final by then; of a large one, something is shown
const MOVING_MS = 900;

export class MapView {
  #section;
  #api;
  #act;
  #camera = new Camera();
  #painter = null;
  #canvas = h("canvas", { tabindex: 0, role: "application", "aria-label": "Map of the library", "aria-describedby": "map-help" });
  #label = h("div", { class: "tip", role: "status" });
  #help = h("p", { id: "map-help", role: "status" });
  #legend = h("ul", { class: "legend", "aria-label": "Colours" });
  #points = null;
  #pointers = new Map();
  #moved = false;
  #hovered = null;
  #selected = "";
  #found = new Map();
  #pending = 0;
  #loading = null;

  /** `act` has `select(id)`, `play(point)` and `hoverPlays()`. */
  constructor(section, { api, act }) {
    this.#section = section;
    this.#api = api;
    this.#act = act;
    new ResizeObserver(() => this.#resize()).observe(section);
    this.#listen();
  }

  /** Fetch the points, once, and draw; places that are final may follow. */
  async open() {
    if (this.#points || this.#loading) return this.#draw();
    this.#loading = new AbortController();
    this.#section.replaceChildren(h("div", { class: "message" }, h("p", { text: "Drawing the map…" })));
    try {
      const told = await this.#api.get("map", [["wait_s", String(SOON_S)]], { signal: this.#loading.signal });
      this.#section.replaceChildren(this.#canvas, this.#tools(), this.#legend, this.#label);
      this.#take(told);
      if (!told.final) this.#improve();
    } catch (error) {
      if (isAbort(error)) return undefined;
      const told = error.status === 404 ? "This index has no map." : error.message;
      this.#section.replaceChildren(h("div", { class: "message" }, h("h2", { text: "No map" }), h("p", { text: told })));
    } finally {
      this.#loading = null;
    }
    return undefined;
  }

  #take({ points, method, files, final }) {
    this.#points = points;
    this.#painter = new Painter(this.#canvas, points);
    this.#hover(null); // it may lie elsewhere now
    const count = points.length.toLocaleString("en");
    const sounds = points.length < files ? `${count} of ${files.toLocaleString("en")} sounds` : `${count} sounds`;
    this.#help.textContent = final ? `${sounds}, near what they sound like (${method})` : `${sounds}, finding their neighbours…`;
    this.#canvas.setAttribute("aria-busy", String(!final));
    this.#showLegend();
    this.#resize();
  }

  /** Ask until the places are final, and let the points go there. */
  async #improve() {
    try {
      let told = { final: false };
      while (!told.final) told = await this.#api.get("map", [["wait_s", "20"]]);
      await this.#moveTo(told.points);
      this.#take(told);
    } catch {
      this.#help.textContent = `${this.#points.length.toLocaleString("en")} sounds, roughly by what they sound like`;
      this.#canvas.setAttribute("aria-busy", "false");
    }
  }

  async #moveTo(points) {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches || document.hidden || this.#section.hidden) return;
    const goals = new Map(points.map((point) => [point.id, point]));
    const ways = this.#points.map((point) => [point, { ...point }, goals.get(point.id) ?? point]);
    const began_ms = performance.now();
    for (let share = 0; share < 1; ) {
      await new Promise((resolve) => requestAnimationFrame(resolve));
      share = Math.min(1, (performance.now() - began_ms) / MOVING_MS);
      const eased = share * share * (3 - 2 * share);
      for (const [point, from, goal] of ways) {
        point.x = from.x + eased * (goal.x - from.x);
        point.y = from.y + eased * (goal.y - from.y);
      }
      this.#draw();
    }
  }

  /** Ids of results in their order: they stand out. */
  highlight(ids) {
    this.#found = new Map(ids.map((id, rank) => [id, rank]));
    this.#draw();
  }

  select(id) {
    this.#selected = id;
    this.#draw();
  }

  /** Colours have changed. */
  repaint() {
    this.#painter?.refreshColours();
    if (this.#points) this.#showLegend();
    this.#draw();
  }

  point(id) {
    return this.#points?.find((point) => point.id === id) ?? null;
  }

  #tools() {
    const by = (change) => () => {
      change();
      this.#draw();
    };
    return h(
      "div",
      { class: "map-tools" },
      iconButton("plus", "Zoom in", by(() => this.#camera.zoomBy(1.6))),
      iconButton("minus", "Zoom out", by(() => this.#camera.zoomBy(1 / 1.6))),
      iconButton("whole", "Whole map", by(() => this.#camera.whole())),
      this.#help,
    );
  }

  #showLegend() {
    const entries = this.#painter.legend().map(({ name, fill }) => {
      const dot = h("i", {});
      dot.style.backgroundColor = fill;
      return h("li", {}, dot, name);
    });
    this.#legend.replaceChildren(...entries);
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.#section;
    if (!this.#painter || !width || !height) return;
    this.#camera.size(width, height);
    this.#painter.size(width, height, devicePixelRatio);
    this.#draw();
  }

  #draw() {
    if (!this.#painter || this.#pending || this.#section.hidden) return;
    this.#pending = requestAnimationFrame(() => {
      this.#pending = 0;
      const marks = { found: this.#found, selected: this.#selected, hovered: this.#hovered?.id ?? "" };
      this.#painter.draw(this.#points, this.#camera, marks);
    });
  }

  #listen() {
    const canvas = this.#canvas;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.#camera.zoomAt(event.offsetX, event.offsetY, Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0016)));
      this.#draw();
    });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.#pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
      this.#moved = this.#pointers.size > 1;
    });
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => {
      if (this.#pointers.delete(event.pointerId) && !this.#moved) this.#click(event);
    });
    canvas.addEventListener("pointercancel", (event) => this.#pointers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", () => this.#hover(null));
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  #move(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) {
      this.#hover(this.#at(event.offsetX, event.offsetY));
      return;
    }
    const [left, top] = before;
    if (Math.hypot(event.offsetX - left, event.offsetY - top) < 3 && !this.#moved) return;
    this.#moved = true;
    const others = [...this.#pointers].filter(([id]) => id !== event.pointerId);
    if (others.length) {
      const [[, [other_left, other_top]]] = others;
      const spread = (x, y) => Math.max(8, Math.hypot(x - other_left, y - other_top));
      const factor = spread(event.offsetX, event.offsetY) / spread(left, top);
      this.#camera.zoomAt((event.offsetX + other_left) / 2, (event.offsetY + other_top) / 2, factor);
    } else this.#camera.drag(event.offsetX - left, event.offsetY - top);
    this.#pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
    this.#draw();
  }

  #click(event) {
    const point = this.#at(event.offsetX, event.offsetY);
    if (point) this.#act.select(point.id);
  }

  #key(event) {
    const moves = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
    if (moves[event.key]) this.#camera.drag(...moves[event.key]);
    else if (event.key === "+" || event.key === "=") this.#camera.zoomBy(1.5);
    else if (event.key === "-") this.#camera.zoomBy(1 / 1.5);
    else if (event.key === "0") this.#camera.whole();
    else return;
    event.preventDefault();
    event.stopPropagation();
    this.#draw();
  }

  /** The nearest point within reach; results before others. */
  #at(left, top) {
    let nearest = null;
    let least = REACH;
    for (const point of this.#points ?? []) {
      const [x, y] = this.#camera.toScreen(point);
      const distance = Math.hypot(x - left, y - top) - (this.#found.has(point.id) ? 4 : 0);
      if (distance < least) [nearest, least] = [point, distance];
    }
    return nearest;
  }

  #hover(point) {
    if (point?.id === this.#hovered?.id) return;
    this.#hovered = point;
    this.#canvas.style.cursor = point ? "pointer" : "grab";
    this.#label.classList.toggle("shown", point !== null);
    if (point) {
      const [x, y] = this.#camera.toScreen(point);
      const tags = (point.tags ?? []).slice(0, 4).join(", ");
      this.#label.replaceChildren(h("b", { text: nameAndFolder(point.name)[0] }), tags ? h("small", { text: tags }) : "");
      this.#label.classList.toggle("leftwards", x > this.#section.clientWidth / 2);
      this.#label.style.left = `${x}px`;
      this.#label.style.top = `${y}px`;
      if (this.#act.hoverPlays()) this.#act.play(point);
    }
    this.#draw();
  }
}
