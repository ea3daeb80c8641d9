// Light, dark, or as the system has it.

import { relabel, remember, remembered } from "./dom.js";

const ORDER = ["auto", "light", "dark"];
const NAMES = { auto: "as the system", light: "light", dark: "dark" };

/** Let a button go through the choices; `changed()` is called when colours may have changed. */
export function listenToTheme(button, changed) {
  let theme = remembered("theme", "auto");
  const apply = () => {
    if (!ORDER.includes(theme)) theme = "auto";
    document.documentElement.dataset.theme = theme;
    relabel(button, theme, `Colours: ${NAMES[theme]}`);
    changed();
  };
  button.addEventListener("click", () => {
    theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
    remember("theme", theme);
    apply();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  apply();
}
