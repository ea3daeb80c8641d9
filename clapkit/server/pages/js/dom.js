// Elements out of data. Text goes in as text and never as HTML: a file may be called "<script>".

const SVG = "http://www.w3.org/2000/svg";

const PATHS = {
  play: "M8 5.5v13l10.5-6.5z",
  pause: "M8 5.5v13M16 5.5v13",
  similar: "M4 9c2.5-4 5.5-4 8 0s5.5 4 8 0M4 16c2.5-4 5.5-4 8 0s5.5 4 8 0",
  add: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  upload: "M12 16V5M7.5 9.5L12 5l4.5 4.5M5 19h14",
  download: "M12 5v11M7.5 11.5L12 16l4.5-4.5M5 19.5h14",
  filters: "M4 7h16M7 12h10M10 17h4",
  keys: "M9.2 9.3a2.8 2.8 0 1 1 4 2.6c-.8.4-1.2 1-1.2 2M12 17.5v.01",
  auto: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  light: "M12 8.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7M12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6L7 7M17 17l1.4 1.4M5.6 18.4L7 17M17 7l1.4-1.4",
  dark: "M19.5 14.5A8 8 0 0 1 9.5 4.5a8 8 0 1 0 10 10z",
  plus: "M12 6v12M6 12h12",
  minus: "M6 12h12",
  whole: "M5 9V5h4M19 9V5h-4M5 15v4h4M19 15v4h-4",
};

/** An element: attributes from `props`; `on` holds listeners, `text` its text; children that are null are left out. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "text") element.textContent = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** One of the pictures above, in the colour of the text around it. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", `glyph ${name}`);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button with a picture; `label` is its name for those who do not see it, and its tooltip. */
export function iconButton(name, label, onClick, props = {}) {
  const className = ["icon", props.class].filter(Boolean).join(" ");
  return h(
    "button",
    { type: "button", title: label, ...props, class: className, "aria-label": label, on: { click: onClick } },
    icon(name),
  );
}

/** Give a button of `iconButton` another picture and name. */
export function relabel(button, name, label) {
  button.replaceChildren(icon(name));
  button.setAttribute("aria-label", label);
  button.title = label;
}

/** A number of seconds as people write it: 0.8 s, 14.5 s, 2:05, 1:02:03. */
export function seconds(value_s) {
  if (value_s === null || value_s === undefined || !Number.isFinite(value_s)) return "";
  if (value_s < 60) return `${value_s.toFixed(1)} s`;
  const whole_s = Math.round(value_s);
  const hours = Math.floor(whole_s / 3600);
  const minutes = Math.floor(whole_s / 60) % 60;
  const tail = String(whole_s % 60).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${tail}` : `${minutes}:${tail}`;
}

/** A path in two: its last part, and the folders before. */
export function nameAndFolder(path) {
  const cut = path.lastIndexOf("/");
  return [path.slice(cut + 1), cut < 0 ? "" : path.slice(0, cut)];
}

/** What a variable of the style sheets is here and now, as a colour that a canvas takes. */
export function colour(variable, element = document.body) {
  const probe = h("span", { hidden: true });
  probe.style.color = `var(${variable})`;
  element.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

/** A value from the browser's store, or `fallback` where there is none or storing is forbidden. */
export function remembered(name, fallback) {
  try {
    return localStorage.getItem(`clapkit.${name}`) ?? fallback;
  } catch {
    return fallback;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`clapkit.${name}`, value);
  } catch {
    // Private windows may forbid it: then the choice lasts as long as the page.
  }
}
