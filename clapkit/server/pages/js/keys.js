// The keyboard, and the card that tells of it.

import { h, iconButton } from "./dom.js";

const CARD = [
  ["/", "write a query"],
  ["j  k  or  ↓  ↑", "next and previous sound"],
  ["Space", "play or stop"],
  ["s", "sounds like the selected one"],
  ["a", "add the selected one as an example"],
  ["i  o", "a part begins, ends where it plays now"],
  ["r", "sounds like that part"],
  ["m", "list or map"],
  ["f", "filters"],
  ["Esc", "leave a field; close; then clear all"],
  ["?", "this card"],
];

/** Call `act.focus`, `act.move(step)`, `act.play`, `act.similar`, `act.add`, `act.cut(what)`, `act.map`, `act.filters`, `act.escape`. */
export function listenToKeys(act) {
  const commands = {
    "/": act.focus,
    j: () => act.move(1),
    k: () => act.move(-1),
    ArrowDown: () => act.move(1),
    ArrowUp: () => act.move(-1),
    " ": act.play,
    s: act.similar,
    a: act.add,
    i: () => act.cut("beginAt"),
    o: () => act.cut("endAt"),
    r: () => act.cut("search"),
    m: act.map,
    f: act.filters,
    "?": showKeys,
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const { target, key } = event;
    if (key === "Escape") {
      if (isTyped(target) && (!target.value || target.type !== "search")) target.blur();
      else act.escape();
      return;
    }
    if (isTyped(target)) {
      if (key === "ArrowDown" && target.type === "search") {
        event.preventDefault();
        act.move(1);
      }
      return;
    }
    // A button that has the focus is pressed with the space key, as everywhere; the name of a row plays its sound.
    const isPressed = key === " " && target.matches("button, a, summary, input") && !target.matches(".name");
    const isMoved = key.startsWith("Arrow") && target.matches("input, select");
    const command = commands[key];
    if (!command || isPressed || isMoved) return;
    event.preventDefault();
    command();
  });
}

export function showKeys() {
  const dialog = document.getElementById("keys");
  const lines = CARD.flatMap(([key, told]) => [h("dt", {}, h("kbd", { text: key })), h("dd", { text: told })]);
  dialog.replaceChildren(
    h(
      "header",
      {},
      h("h2", { id: "keys-title", text: "Keys" }),
      iconButton("close", "Close", () => dialog.close()),
    ),
    h("dl", {}, lines),
    h("p", { class: "quiet" }, "Drop a sound anywhere to search by it. For programs: ", h("a", { href: "docs", text: "HTTP routes" })),
  );
  if (!dialog.open) dialog.showModal();
}

function isTyped(element) {
  if (element.matches("textarea, select")) return true;
  return element.matches("input") && !["checkbox", "range", "file"].includes(element.type);
}
