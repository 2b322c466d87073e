"use strict";
// What every page needs: helpers, the theme, links between sections, pictures of a sheet, and the state of the page,
// which is kept in the fragment of its address. The scripts of the pages follow in the same element.
const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
const made = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const data = JSON.parse($("#data").textContent);
const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
const remember = (key, value) => {
  if (value === null || value === "" || value === false) state.delete(key);
  else state.set(key, value);
  history.replaceState(null, "", "#" + state);
};
const say = text => { $("#said").textContent = text; };

// theme
const theme = $("#theme"), themes = ["auto", "dark", "light"];
const showTheme = name => {
  if (name === "auto") delete document.body.dataset.theme;
  else document.body.dataset.theme = name;
  theme.textContent = "Theme: " + name;
};
theme.hidden = false;
theme.addEventListener("click", () => {
  const next = themes[(themes.indexOf(state.get("theme") ?? "auto") + 1) % themes.length];
  remember("theme", next === "auto" ? null : next);
  showTheme(next);
});

// links between sections keep the state in the fragment
for (const link of $$('nav a[href^="#"], a.skip')) link.addEventListener("click", event => {
  const target = $(link.getAttribute("href"));
  event.preventDefault();
  target.scrollIntoView();
  target.focus({ preventScroll: true });
});
for (const controls of $$(".controls")) controls.hidden = false;

// one picture of a sheet on a canvas, or three times its difference from a picture of the same or of another sheet
const draw = (canvas, figure, index, minus = null, other = figure) => {
  const { columns, width, height } = figure.dataset, w = +width, h = +height;
  const tile = (sheet, number) => [$("img", sheet), (number % columns) * w, Math.floor(number / columns) * h, w, h, 0, 0, w, h];
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
  canvas.classList.toggle("small", w <= 48);
  const context = canvas.getContext("2d", { willReadFrequently: minus !== null });
  context.globalCompositeOperation = "copy";
  context.drawImage(...tile(figure, index));
  if (minus === null) return;
  context.globalCompositeOperation = "difference";
  context.drawImage(...tile(other, minus));
  const pixels = context.getImageData(0, 0, w, h);
  for (let i = 0; i < pixels.data.length; i++) if (i % 4 < 3) pixels.data[i] = Math.min(255, 3 * pixels.data[i]);
  context.putImageData(pixels, 0, 0);
};

// shows the state once the page is loaded, and again whenever the fragment changes; after `img.decode()` it would come too
// late for a screenshot of the loaded page
const follow = show => {
  const restore = () => {
    showTheme(themes.includes(state.get("theme")) ? state.get("theme") : "auto");
    show();
  };
  addEventListener("hashchange", () => {
    for (const key of [...state.keys()]) state.delete(key);
    new URLSearchParams(location.hash.slice(1)).forEach((value, key) => state.set(key, value));
    restore();
  });
  addEventListener("load", restore);
};
