// Small spectrograms, fetched when they come into sight, a few at once: sounds and answers do not wait behind them.

const AT_ONCE = 3;

export class Thumbs {
  #api;
  #waiting = [];
  #underWay = 0;
  #made = new Map(); // path -> address of the picture
  #seen;

  constructor(api) {
    this.#api = api;
    this.#seen = new IntersectionObserver((entries) => this.#sight(entries), { rootMargin: "300px 0px" });
  }

  /** Fill an `img` with the picture at a path, once it is in sight. */
  show(image, path) {
    image.dataset.path = path;
    const made = this.#made.get(path);
    if (made) image.src = made;
    else this.#seen.observe(image);
  }

  #sight(entries) {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) this.#waiting.push(target);
      else this.#waiting = this.#waiting.filter((image) => image !== target);
    }
    this.#next();
  }

  #next() {
    while (this.#underWay < AT_ONCE && this.#waiting.length) {
      const image = this.#waiting.shift();
      this.#seen.unobserve(image);
      if (!image.isConnected) continue;
      this.#underWay += 1;
      this.#fetch(image).finally(() => {
        this.#underWay -= 1;
        this.#next();
      });
    }
  }

  async #fetch(image) {
    const path = image.dataset.path;
    try {
      if (!this.#made.has(path)) {
        this.#made.set(path, URL.createObjectURL(await (await this.#api.fetch(path)).blob()));
        this.#forget();
      }
      if (image.dataset.path === path) image.src = this.#made.get(path);
    } catch (error) {
      image.title = error.message;
      image.classList.add("missing");
    }
  }

  #forget() {
    const [oldest] = this.#made;
    if (this.#made.size <= 400) return;
    URL.revokeObjectURL(oldest[1]);
    this.#made.delete(oldest[0]);
  }
}
