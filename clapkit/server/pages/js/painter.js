// Draws the points of the map: a colour a tag, rings around results, names where there is room.

import { colour, nameAndFolder } from "./dom.js";

const COLOURS = 8;
const LABELS_AT_MOST = 14;
const NAMES_AT_MOST = 40; // points in sight for which each gets its name
const FONT = "system-ui, sans-serif";

/** What a point is coloured by: its first tag, else its folder. */
const groupOf = (point) => point.tags?.[0] ?? nameAndFolder(point.name)[1];

/** The groups of all points, the largest first, each with the middle of its points. */
export function groupsOf(points) {
  const members = new Map();
  for (const point of points) {
    const name = groupOf(point);
    if (!members.has(name)) members.set(name, []);
    members.get(name).push(point);
  }
  const middle = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
  return [...members]
    .map(([name, of]) => ({ name, count: of.length, x: middle(of.map((p) => p.x)), y: middle(of.map((p) => p.y)) }))
    .sort((a, b) => b.count - a.count);
}

export class Painter {
  #canvas;
  #pen;
  #groups;
  #numberOf;
  #colours = [];
  #width = 0;
  #height = 0;

  constructor(canvas, groups) {
    this.#canvas = canvas;
    this.#pen = canvas.getContext("2d");
    this.#groups = groups;
    this.#numberOf = new Map(groups.map(({ name }, number) => [name, number]));
    this.refreshColours();
  }

  refreshColours() {
    const names = [...Array.from({ length: COLOURS }, (_, n) => `--group-${n}`), "--group-other"];
    this.#colours = names.map((name) => colour(name));
    this.text = colour("--text");
    this.paper = colour("--surface");
    this.accent = colour("--accent");
  }

  size(width, height, ratio) {
    this.#width = width;
    this.#height = height;
    this.#canvas.width = Math.round(width * ratio);
    this.#canvas.height = Math.round(height * ratio);
    this.#pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  /** The groups that have a colour of their own. */
  legend() {
    const named = this.#groups.slice(0, COLOURS).filter(({ name }) => name);
    const entries = named.map(({ name }) => ({ name, fill: this.#colourOf(name) }));
    if (this.#groups.length > COLOURS) entries.push({ name: "others", fill: this.#colours[COLOURS] });
    return entries;
  }

  draw(points, camera, { found, selected, hovered }) {
    const pen = this.#pen;
    pen.clearRect(0, 0, this.#width, this.#height);
    const radius = Math.min(7, 2.4 + Math.log2(camera.zoom + 1) * 0.9) * (points.length > 1500 ? 0.8 : 1);
    const inSight = [];
    const special = [];
    for (const point of points) {
      const [x, y] = camera.toScreen(point);
      if (x < -10 || y < -10 || x > this.#width + 10 || y > this.#height + 10) continue;
      inSight.push([point, x, y]);
      if (found.has(point.id) || point.id === selected || point.id === hovered) special.push([point, x, y]);
      else this.#dot(x, y, radius, this.#colourOf(groupOf(point)), found.size ? 0.35 : 0.8);
    }
    for (const [point, x, y] of special) {
      const isChosen = point.id === selected || point.id === hovered;
      this.#dot(x, y, radius + (isChosen ? 3 : 1.5), this.#colourOf(groupOf(point)), 1);
      this.#ring(x, y, radius + (isChosen ? 5 : 3), isChosen ? this.text : this.accent, isChosen ? 2.5 : 1.5);
    }
    if (inSight.length <= NAMES_AT_MOST) this.#names(inSight, radius);
    else this.#groupNames(camera);
  }

  #colourOf(name) {
    return this.#colours[Math.min(COLOURS, this.#numberOf.get(name) ?? COLOURS)];
  }

  #dot(x, y, radius, fill, opacity) {
    const pen = this.#pen;
    pen.globalAlpha = opacity;
    pen.fillStyle = fill;
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    pen.fill();
    pen.globalAlpha = 1;
  }

  #ring(x, y, radius, stroke, width) {
    const pen = this.#pen;
    pen.strokeStyle = stroke;
    pen.lineWidth = width;
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    pen.stroke();
  }

  #names(inSight, radius) {
    const taken = [];
    for (const [point, x, y] of inSight) this.#write(nameAndFolder(point.name)[0], x + radius + 5, y, taken, "12px", "left");
  }

  #groupNames(camera) {
    const taken = [];
    for (const group of this.#groups.slice(0, LABELS_AT_MOST)) {
      const [x, y] = camera.toScreen(group);
      if (group.name) this.#write(group.name, x, y, taken, "600 13px", "center");
    }
  }

  /** A text with a halo, unless it would cover another one. */
  #write(text, x, y, taken, size, align) {
    const pen = this.#pen;
    pen.font = `${size} ${FONT}`;
    pen.textAlign = align;
    pen.textBaseline = "middle";
    const shown = text.length > 34 ? `${text.slice(0, 33)}…` : text;
    const width = pen.measureText(shown).width;
    const left = align === "center" ? x - width / 2 : x;
    const box = [left - 4, y - 9, left + width + 4, y + 9];
    if (taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3])) return;
    taken.push(box);
    pen.lineJoin = "round";
    pen.lineWidth = 4;
    pen.strokeStyle = this.paper;
    pen.strokeText(shown, x, y);
    pen.fillStyle = this.text;
    pen.fillText(shown, x, y);
  }
}
