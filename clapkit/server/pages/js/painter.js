// Draws the points of the map: a colour a tag, rings around results, names where there is room.

import { colour, nameAndFolder } from "./dom.js";

const COLOURS = 8;
const LABELS_AT_MOST = 20; // more when nearer
const SPREAD = 0.12; // of the map's width, half of a group's points at most this far from its middle
const NAMES_AT_MOST = 40; // points in sight for which each gets its name
const FONT = "system-ui, sans-serif";

const tagOf = (point) => point.tags?.[0] ?? "";
const folderOf = (point) => (point.name.includes("/") ? point.name.slice(0, point.name.indexOf("/")) : "");

/** The groups of all points by what `keyOf` says of them, the largest first, each with its middle and its spread. */
function groupsOf(points, keyOf) {
  const members = new Map();
  for (const point of points) {
    const name = keyOf(point);
    if (!members.has(name)) members.set(name, []);
    members.get(name).push(point);
  }
  const middle = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
  const about = ([name, of]) => {
    const [x, y] = [middle(of.map((point) => point.x)), middle(of.map((point) => point.y))];
    return { name, count: of.length, x, y, spread: middle(of.map((point) => Math.hypot(point.x - x, point.y - y))) };
  };
  return [...members].map(about).sort((a, b) => b.count - a.count);
}

/** Which of tags and folders colour the points: tags, unless most of them would be without a colour of their own. */
function colouring(points, tags) {
  const folders = groupsOf(points, folderOf);
  const coloured = (groups) => groups.slice(0, COLOURS).reduce((sum, { name, count }) => sum + (name ? count : 0), 0);
  const isByTag = coloured(tags) >= points.length / 2 || coloured(tags) >= coloured(folders);
  return isByTag ? { groups: tags, keyOf: tagOf } : { groups: folders, keyOf: folderOf };
}

export class Painter {
  #canvas;
  #pen;
  #groups;
  #keyOf;
  #named;
  #numberOf;
  #colours = [];
  #width = 0;
  #height = 0;

  constructor(canvas, points) {
    this.#canvas = canvas;
    this.#pen = canvas.getContext("2d");
    const tags = groupsOf(points, tagOf);
    ({ groups: this.#groups, keyOf: this.#keyOf } = colouring(points, tags));
    // A name belongs where its sounds are: one whose sounds lie all over the map has no place.
    this.#named = tags.filter(({ name, count, spread }) => name && count > 1 && spread < SPREAD);
    this.#numberOf = new Map(this.#groups.map(({ name }, number) => [name, number]));
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
      else this.#dot(x, y, radius, this.#colourOf(this.#keyOf(point)), found.size ? 0.45 : 0.85);
    }
    for (const [point, x, y] of special) {
      const isChosen = point.id === selected || point.id === hovered;
      this.#dot(x, y, radius + (isChosen ? 3 : 1.5), this.#colourOf(this.#keyOf(point)), 1);
      this.#ring(x, y, radius + (isChosen ? 5 : 3), isChosen ? this.text : this.accent, isChosen ? 2.5 : 1.5);
    }
    if (inSight.length <= NAMES_AT_MOST) this.#names(inSight, radius);
    else this.#groupNames(camera);
  }

  #colourOf(name) {
    return this.#colours[Math.min(COLOURS, this.#numberOf.get(name) ?? COLOURS)];
  }

  #circle(x, y, radius) {
    this.#pen.beginPath();
    this.#pen.arc(x, y, radius, 0, 2 * Math.PI);
  }

  #dot(x, y, radius, fill, opacity) {
    this.#pen.globalAlpha = opacity;
    this.#pen.fillStyle = fill;
    this.#circle(x, y, radius);
    this.#pen.fill();
    this.#pen.globalAlpha = 1;
  }

  #ring(x, y, radius, stroke, width) {
    this.#pen.strokeStyle = stroke;
    this.#pen.lineWidth = width;
    this.#circle(x, y, radius);
    this.#pen.stroke();
  }

  #names(inSight, radius) {
    const taken = [];
    for (const [point, x, y] of inSight) this.#write(nameAndFolder(point.name)[0], x + radius + 5, y, taken, "12px", "left");
  }

  #groupNames(camera) {
    const taken = [];
    for (const group of this.#named.slice(0, LABELS_AT_MOST * camera.zoom)) {
      const [x, y] = camera.toScreen(group);
      this.#write(group.name, x, y, taken, "600 12.5px", "center");
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
