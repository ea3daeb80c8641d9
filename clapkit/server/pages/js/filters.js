// What may be found at all: tags, folders, length, and further conditions; and how the list is made.

import { h, iconButton } from "./dom.js";

const TAGS_SHOWN = 16;
const WAIT_MS = 250;

export class Filters {
  #aside;
  #state;
  #known = null;
  #all = false;
  #timer = 0;
  #clear = h("button", {
    type: "button",
    class: "link clear",
    text: "Clear filters",
    on: { click: () => this.#set({ tags: [], folder: "", min: "", max: "", where: [] }) },
  });

  constructor(aside, state) {
    this.#aside = aside;
    this.#state = state;
  }

  /** Build the controls out of what the server says of its library; null where it does not say. */
  show(known) {
    this.#known = known;
    const { now } = this.#state;
    if (!known) {
      this.#aside.replaceChildren(h("p", { class: "quiet", text: "This index has nothing to filter by." }));
      return;
    }
    const parts = [this.#tags(), this.#folders(), this.#lengths(), this.#conditions(), this.#ways()];
    this.#clear.hidden = isOpen(now);
    this.#aside.replaceChildren(...parts.filter(Boolean), this.#clear);
  }

  /** The same with another state: what has the focus keeps it. */
  update() {
    if (!this.#known) return;
    const focused = document.activeElement;
    if (this.#aside.contains(focused) && focused.matches("[type=number], [type=range]")) {
      this.#clear.hidden = isOpen(this.#state.now);
      return;
    }
    const id = this.#aside.contains(focused) && focused.id;
    this.show(this.#known);
    if (id) document.getElementById(id)?.focus();
  }

  #set(changes) {
    this.#state.set(changes, { step: true });
  }

  #tags() {
    const { tags = [] } = this.#known;
    if (!tags.length) return null;
    const chosen = new Set(this.#state.now.tags);
    const first = tags.filter(({ tag }, n) => this.#all || n < TAGS_SHOWN || chosen.has(tag));
    const chips = first.map(({ tag, count }, n) =>
      h(
        "button",
        {
          type: "button",
          class: "chip",
          id: `tag-${n}`,
          "aria-pressed": String(chosen.has(tag)),
          on: { click: () => this.#choose(tag) },
        },
        h("span", { text: tag }),
        h("small", { text: String(count) }),
      ),
    );
    const more = h("button", {
      type: "button",
      class: "link",
      text: this.#all ? "Fewer tags" : `All ${tags.length} tags`,
      on: {
        click: () => {
          this.#all = !this.#all;
          this.show(this.#known);
        },
      },
    });
    more.hidden = tags.length <= TAGS_SHOWN;
    return group("Tags", h("div", { class: "chips" }, chips), more);
  }

  #choose(tag) {
    const chosen = this.#state.now.tags;
    if (chosen.includes(tag)) this.#set({ tags: chosen.filter((one) => one !== tag) });
    // A list of tags is parted by commas, so that a tag with one in it can only stand alone.
    else this.#set({ tags: [tag, ...chosen].some((one) => one.includes(",")) ? [tag] : [...chosen, tag] });
  }

  #folders() {
    const { folders = [] } = this.#known;
    if (folders.length < 2) return null;
    const shared = sharedStart(folders.map(({ folder }) => folder));
    const options = folders.map(({ folder, count }) =>
      h("option", { value: folder, text: `${folder.slice(shared) || "."} (${count})` }),
    );
    const field = h(
      "select",
      { id: "folder", on: { change: () => this.#set({ folder: field.value }) } },
      h("option", { value: "", text: "All folders" }),
      options,
    );
    field.value = this.#state.now.folder;
    return group(h("label", { for: "folder", text: "Folder" }), field);
  }

  #lengths() {
    const [least_s, most_s] = this.#known.duration_s ?? [null, null];
    const field = (id, label, hint) => {
      const input = h("input", {
        id: `length-${id}`,
        type: "number",
        min: 0,
        step: "any",
        inputmode: "decimal",
        "aria-label": label,
        placeholder: hint === null ? "" : String(Math.round(hint * 10) / 10),
        on: { input: () => this.#later({ [id]: input.value }) },
      });
      input.value = this.#state.now[id];
      return input;
    };
    return group(
      "Result length, seconds",
      h(
        "div",
        { class: "range" },
        field("min", "At least, in seconds", least_s),
        h("span", { text: "to", "aria-hidden": "true" }),
        field("max", "At most, in seconds", most_s),
      ),
    );
  }

  #conditions() {
    const { where } = this.#state.now;
    const names = (this.#known.fields ?? []).map((field) => h("option", { value: `${field.name}=` }));
    const input = h("input", {
      id: "condition",
      type: "text",
      list: "field-names",
      placeholder: "licence=CC0",
      spellcheck: "false",
      on: {
        keydown: (event) => {
          if (event.key !== "Enter" || !input.value.trim()) return;
          event.preventDefault();
          this.#set({ where: [...where, input.value.trim()] });
        },
      },
    });
    const chips = where.map((condition) =>
      h(
        "span",
        { class: "chip held" },
        h("span", { text: condition }),
        iconButton("close", `Remove the condition ${condition}`, () =>
          this.#set({ where: where.filter((one) => one !== condition) }),
        ),
      ),
    );
    return group(
      h("label", { for: "condition", text: "Other conditions" }),
      h("div", { class: "chips" }, chips),
      input,
      h("datalist", { id: "field-names" }, names),
    );
  }

  #ways() {
    const { now } = this.#state;
    const check = (name, label) => {
      const box = h("input", {
        type: "checkbox",
        id: `way-${name}`,
        on: { change: () => this.#set({ [name]: box.checked }) },
      });
      box.checked = now[name];
      return h("label", { class: "check" }, box, ` ${label}`);
    };
    const slider = h("input", {
      type: "range",
      id: "variety",
      min: 0,
      max: 1,
      step: 0.1,
      on: { input: () => this.#later({ variety: Number(slider.value) }) },
    });
    slider.value = now.variety;
    return group(
      "List",
      check("words", "Names and tags count too"),
      check("moments", "Moments in long files"),
      h("label", { for: "variety", text: "Variety" }),
      slider,
    );
  }

  #later(changes) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#state.set(changes), WAIT_MS);
  }
}

/** Whether no filter is set. */
const isOpen = ({ tags, folder, min, max, where }) => ![tags, folder, min, max, where].some((value) => value.length);

function group(title, ...content) {
  return h("section", { class: "group" }, typeof title === "string" ? h("h3", { text: title }) : title, ...content);
}

/** How many characters of whole folders all paths share. */
function sharedStart(paths) {
  let shared = paths[0].lastIndexOf("/") + 1;
  for (const path of paths) while (shared && !path.startsWith(paths[0].slice(0, shared))) shared = paths[0].lastIndexOf("/", shared - 2) + 1;
  return shared;
}
