// What part of the map is in sight. Points of the map lie in 0 to 1 each way; those of the screen are pixels.

const MOST = 200;
const MARGIN = 36;

export class Camera {
  zoom = 1;
  x = 0.5; // of the map, at the centre of the screen
  y = 0.5;
  #width = 1;
  #height = 1;

  size(width, height) {
    this.#width = width;
    this.#height = height;
  }

  get scale_x() {
    return Math.max(1, this.#width - 2 * MARGIN) * this.zoom;
  }

  get scale_y() {
    return Math.max(1, this.#height - 2 * MARGIN) * this.zoom;
  }

  toScreen({ x, y }) {
    return [this.#width / 2 + (x - this.x) * this.scale_x, this.#height / 2 + (y - this.y) * this.scale_y];
  }

  toMap(left, top) {
    return [this.x + (left - this.#width / 2) / this.scale_x, this.y + (top - this.#height / 2) / this.scale_y];
  }

  /** Nearer by `factor`; the point of the map below (left, top) stays there. */
  zoomAt(left, top, factor) {
    const [x, y] = this.toMap(left, top);
    this.zoom = Math.min(MOST, Math.max(1, this.zoom * factor));
    const [now_x, now_y] = this.toMap(left, top);
    this.x += x - now_x;
    this.y += y - now_y;
    this.#keep();
  }

  /** Nearer by `factor`, around the centre. */
  zoomBy(factor) {
    this.zoomAt(this.#width / 2, this.#height / 2, factor);
  }

  /** The map follows a finger that moved by so many pixels. */
  drag(right, down) {
    this.x -= right / this.scale_x;
    this.y -= down / this.scale_y;
    this.#keep();
  }

  /** All of it. */
  whole() {
    this.zoom = 1;
    this.x = this.y = 0.5;
  }

  #keep() {
    const slack = 0.5 / this.zoom;
    this.x = Math.min(1 - slack, Math.max(slack, this.x));
    this.y = Math.min(1 - slack, Math.max(slack, this.y));
  }
}
