// The page works without this script: it shows the whole strips and the whole sheets. The script adds the slider, the
// sorting, the dialog and the copy buttons.
(() => {
  // traversals
  const within = (value, count) => Math.min(Math.max(Math.trunc(+value) || 0, 0), count - 1);
  const strips = $$(".strip"), stage = $("#stage"), classes = $("#classes");
  const showMove = () => {
    const chosen = within(state.get("label"), strips.length), strip = strips[chosen], { ids, stations } = data.strips[chosen];
    const columns = +strip.dataset.columns, rows = Math.round($("img", strip).naturalHeight / strip.dataset.height);
    const station = within(state.get("station"), columns);
    $$('input[name="label"]')[chosen].checked = true;
    if (classes.dataset.label !== String(chosen)) {
      classes.dataset.label = chosen;
      classes.replaceChildren($("legend", classes), ...stations.map((name, value) =>
        made("label", {}, made("input", { type: "radio", name: "class", value }), made("span", { textContent: name }))));
    }
    classes.hidden = !stations.length;
    $(".slider").hidden = !!stations.length;
    if (stations.length) $$("input", classes)[station].checked = true;
    else Object.assign($("#station"), { max: columns - 1, value: station });
    $("#station-text").textContent = `${station + 1} of ${columns}`;
    for (const key of ["difference", "region", "whole"]) $("#" + key).checked = state.has(key);
    $("#region").disabled = !strip.dataset.outline;
    strips.forEach((figure, index) => {
      figure.classList.toggle("chosen", index === chosen);
      figure.classList.toggle("shown", index === chosen && state.has("whole"));
    });
    while (stage.children.length > rows) stage.lastChild.remove();
    while (stage.children.length < rows) stage.append(made("figure", { className: "moved" }, made("canvas")));
    [...stage.children].forEach((cell, row) => {
      const canvas = $("canvas", cell), first = row * columns;
      draw(canvas, strip, first + station, state.has("difference") ? first : null);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `image ${ids[row] ?? row + 1}, ${$("figcaption", strip).textContent}, `
        + (stations[station] ?? `position ${station + 1}`));
      $("svg", cell)?.remove();
      if (state.has("region") && strip.dataset.outline) {
        const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
        const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
        svg.setAttribute("viewBox", `0 0 ${strip.dataset.width} ${strip.dataset.height}`);
        path.setAttribute("d", strip.dataset.outline);
        svg.append(path);
        cell.append(svg);
      }
    });
  };
  if (strips.length) {
    for (const input of $$('input[name="label"]')) input.addEventListener("change", () => {
      if (data.strips[input.value].stations.length || classes.children.length > 1) remember("station", null);
      remember("label", input.value);
      showMove();
    });
    for (const input of [$("#station"), classes]) input.addEventListener("input", event => {
      remember("station", event.target.value);
      showMove();
    });
    for (const key of ["difference", "region", "whole"]) $("#" + key).addEventListener("change", event => {
      remember(key, event.target.checked ? 1 : null);
      showMove();
    });
    $("#move").classList.add("live");
    stage.hidden = false;
  }

  // two labels at once: the sheet has the images side by side, each with as many columns as the sheet has rows
  const planes = $$(".plane"), pad = $("#pad");
  const showPad = () => {
    const chosen = within(state.get("pad"), planes.length), plane = planes[chosen], columns = +plane.dataset.columns;
    const size = Math.round($("img", plane).naturalHeight / plane.dataset.height), images = columns / size;
    const [x, y] = ["x", "y"].map(key => within(state.get(key), size)), [down, across] = data.pads[chosen];
    $$('input[name="pad"]')[chosen].checked = true;
    planes.forEach((figure, index) => figure.classList.toggle("chosen", index === chosen));
    $("#down").textContent = `${down} →`;
    $("#across").textContent = `${across} →`;
    pad.dataset.size = size;
    pad.setAttribute("aria-label", `${across} across, ${down} down`);
    pad.style.backgroundSize = `${100 / size}% ${100 / size}%`;
    Object.assign($("i", pad).style, { left: `${100 * (x + .5) / size}%`, top: `${100 * (y + .5) / size}%` });
    $("#pad-text").textContent = `${across} ${x + 1} of ${size}, ${down} ${y + 1} of ${size}.`;
    const shown = $("#plane .stage");
    while (shown.children.length > images) shown.lastChild.remove();
    while (shown.children.length < images) shown.append(made("figure", {}, made("canvas")));
    $$("canvas", shown).forEach((canvas, image) => {
      draw(canvas, plane, y * columns + image * size + x);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `image ${image + 1}: ${$("#pad-text").textContent}`);
    });
  };
  const movePad = (x, y) => {
    for (const [key, value] of [["x", x], ["y", y]]) remember(key, within(value, +pad.dataset.size) || null);
    showPad();
  };
  if (pad) {
    const drag = event => {
      if (!event.buttons) return;
      const box = pad.getBoundingClientRect(), size = +pad.dataset.size;
      pad.setPointerCapture(event.pointerId);
      movePad((event.clientX - box.left) / box.width * size, (event.clientY - box.top) / box.height * size);
    };
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    for (const type of ["pointerdown", "pointermove"]) pad.addEventListener(type, drag);
    pad.addEventListener("keydown", event => {
      const step = steps[event.key];
      if (!step) return;
      event.preventDefault();
      movePad(+state.get("x") + step[0], +state.get("y") + step[1]);
    });
    for (const input of $$('input[name="pad"]')) input.addEventListener("change", () => { remember("pad", input.value); showPad(); });
    $("#move").classList.add("live");
    $("#plane").hidden = false;
  }

  // single images
  const sheets = $$(".gallery figure"), thumbs = $("#thumbs"), dialog = $("#single");
  const number = value => value === null ? "–" : Math.abs(value) >= 1000 ? value.toFixed(0) : String(+value.toPrecision(3));
  const columnOf = (value, of) => data.columns.find(column => column.value === value && column.of === of);
  const showThumbs = () => {
    const value = state.get("sort") ?? "", down = state.get("order") === "down";
    const choices = data.columns.filter(column => column.value === value).map(column => column.of);
    const of = choices.includes(state.get("of") ?? "") ? state.get("of") ?? "" : choices[0] ?? "";
    $("#sort").value = value;
    $("#order").value = down ? "down" : "up";
    $("#of").replaceChildren(...choices.map(name => made("option", { value: name, textContent: name || "whole image" })));
    $("#of").value = of;
    $("#of-label").hidden = choices.length < 2;
    $("#order").hidden = value === "";
    const numbers = columnOf(value, of)?.numbers;
    const order = data.ids.map((_, index) => index);
    if (numbers) order.sort((a, b) => {
      if (numbers[a] === null || numbers[b] === null) return (numbers[a] === null) - (numbers[b] === null) || a - b;
      return (down ? numbers[b] - numbers[a] : numbers[a] - numbers[b]) || a - b;
    });
    const buttons = new Map([...thumbs.children].map(item => [+item.dataset.index, item]));
    for (const index of order) {
      const item = buttons.get(index);
      $("small", item).textContent = numbers ? number(numbers[index]) : data.ids[index];
      $("button", item).setAttribute("aria-label", `image ${data.ids[index]}` + (numbers ? `, ${number(numbers[index])}` : ""));
      thumbs.append(item);
    }
  };
  const showSingle = index => {
    $("#single-title").textContent = `Image ${data.ids[index]}`;
    $(".versions", dialog).replaceChildren(...sheets.map(sheet => {
      const { name, model } = sheet.dataset, canvas = made("canvas"), label = /^do\((.*)\)$/s.exec(name)?.[1];
      const title = [data.models?.[model], label ?? name].filter(Boolean).join(": ");
      const classes = data.classes[label], caption = made("figcaption", {}, made("b", { textContent: title }));
      const add = text => caption.append(made("div", { textContent: text }));
      draw(canvas, sheet, index);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", title);
      if (classes?.then) add(`${classes.now[index]} → ${classes.then[index]}`);
      for (const column of data.columns) if (column.headline && column.of === (label ?? "") && name !== "original")
        add(`${column.value.replace(/^[^.]*\./, "")} ${number((column.each?.[model] ?? column.numbers)[index])}`);
      return made("figure", {}, canvas, caption);
    }));
    $("tbody", dialog).replaceChildren(...data.columns.filter(column => column.numbers[index] !== null).map(column =>
      made("tr", {}, made("th", { scope: "row", textContent: column.value }), made("td", { textContent: column.of }),
        ...[...column.each ?? [], column.numbers].map(numbers => made("td", { className: "number", textContent: number(numbers[index]) })))));
    if (!dialog.open) dialog.showModal();
  };
  const version = (sheet, index, name) => {
    const canvas = made("canvas");
    draw(canvas, sheet, index);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `image ${data.ids[index]}, ${name}`);
    return made("figure", {}, canvas, made("figcaption", { textContent: name }));
  };
  const linked = $$(".matrix td[data-value]"), behind = $("#behind");
  const showBehind = cell => {
    const { value, of, worst } = cell.dataset, { numbers } = columnOf(value, of), all = data.samples[value.split(".")[0]];
    const order = data.ids.map((_, index) => index).filter(index => numbers[index] !== null)
      .sort((a, b) => (worst === "high" ? numbers[b] - numbers[a] : numbers[a] - numbers[b]) || a - b);
    const places = [["Worst", 0], ["Median", (order.length - 1) >> 1], ["Best", order.length - 1]];
    const shown = sheets.filter(({ dataset: { name } }) => ["original", "reconstruction", `do(${of})`].includes(name));
    $("#behind-title").textContent = `${value} of ${of}: ${cell.textContent}`;
    $("p", behind).textContent = (order.length < all
      ? `Among the ${order.length} pictured images of the ${all} in the sample` : `Among all ${all} images of the sample`)
      + (worst === "high" ? ", from the largest value to the smallest." : ", from the smallest value to the largest.");
    $(".examples", behind).replaceChildren(...(order.length ? places : []).map(([place, at]) => made("div", {},
      made("h4", { textContent: `${place}: image ${data.ids[order[at]]}, ${number(numbers[order[at]])}` }),
      made("div", { className: "versions" }, ...shown.map(sheet => version(sheet, order[at], sheet.dataset.name))))));
    if (!behind.open) behind.showModal();
  };
  if (thumbs) {
    data.ids.forEach((id, index) => {
      const button = made("button", { type: "button" }, made("canvas"), made("small"));
      const item = made("li", {}, button);
      item.dataset.index = index;
      button.addEventListener("click", () => { remember("image", id); showSingle(index); });
      thumbs.append(item);
    });
    const groups = Map.groupBy(data.columns, column => column.value.split(".")[0]);
    for (const [metric, columns] of groups) $("#sort").append(Object.assign(made("optgroup", {},
      ...[...new Set(columns.map(column => column.value))].map(value =>
        made("option", { value, textContent: value.slice(metric.length + 1) }))), { label: metric }));
    $("#sort").addEventListener("change", event => {
      const better = data.columns.find(column => column.value === event.target.value)?.better;
      remember("order", better === false ? "down" : null);  // the worst images first
      remember("sort", event.target.value);
      showThumbs();
    });
    $("#of").addEventListener("change", event => { remember("of", event.target.value); showThumbs(); });
    $("#order").addEventListener("change", event => { remember("order", event.target.value); showThumbs(); });
    dialog.addEventListener("close", () => remember("image", null));
    $("#images").classList.add("live");
    thumbs.hidden = false;
    if (behind) $("button[type=button]", behind).addEventListener("click", () => {
      const cell = linked[state.get("cell")];
      behind.close();
      for (const [key, value] of [["sort", cell.dataset.value], ["of", cell.dataset.of],
        ["order", cell.dataset.worst === "high" ? "down" : null]]) remember(key, value);
      showThumbs();
      $("#images").scrollIntoView();
      $("#images").focus({ preventScroll: true });
    });
    behind?.addEventListener("close", () => remember("cell", null));
    for (const cell of linked) {
      const button = made("button", { type: "button", textContent: cell.textContent, title: "Show the images behind this number" });
      button.addEventListener("click", () => {
        remember("cell", linked.indexOf(cell));
        showBehind(cell);
      });
      cell.replaceChildren(button);
    }
  }

  // copy and save
  const copied = async text => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {  // without permission: through a selected text field
      const field = made("textarea", { value: text });
      document.body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
    say("Copied: " + text);
  };
  const latex = text => text.replace(/[\\&%$#_{}~^]/g, c => ({ "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" })[c] ?? "\\" + c);
  const csv = text => /[",\n]|^[=+\-@]/.test(text) ? `"${text.replace(/^([=+\-@])/, "'$1").replaceAll('"', '""')}"` : text;
  const formats = {
    address: address => address,
    number: (_, v) => v.low === null ? number(v.value) : `${number(v.value)} [${number(v.low)}, ${number(v.high)}]`,
    markdown: (address, v) => `| ${address.replaceAll("|", "\\|")} | ${formats.number("", v)} | ${number(v.chance)} | ${number(v.reference)} | ${v.n} |`,
    latex: (address, v) => `${latex(address)} & ${number(v.value)} & [${number(v.low)}, ${number(v.high)}] & ${number(v.chance)} & ${number(v.reference)} & ${v.n} \\\\`,
    csv: (address, v) => [csv(address), ...[v.value, v.low, v.high, v.chance, v.reference, v.n].map(x => x ?? "")].join(","),
  };
  document.addEventListener("click", event => {
    const button = event.target.closest("button.copy, button.save");
    if (!button) return;
    const row = button.closest("tr[data-address]");
    if (row) {
      const [value, low, high, chance, reference, n] = row.dataset.numbers.split(",").map(x => x === "" ? null : +x);
      copied(formats[$("#format").value](row.dataset.address, { value, low, high, chance, reference, n }));
    }
    else if (button.dataset.of) copied($("#" + button.dataset.of).textContent);
    else made("a", { href: $("img", button.closest("figure")).src, download: button.dataset.file }).click();
  });
  for (const row of $$("tr[data-address]")) {
    const button = made("button", { type: "button", className: "copy", textContent: "copy" });
    button.setAttribute("aria-label", "copy " + row.dataset.address);
    row.append(made("td", {}, button));
  }
  for (const head of $$("table.values thead tr")) if ($("tr[data-address]", head.closest("table")))
    head.append(made("th", { scope: "col" }, made("span", { className: "visually-hidden", textContent: "copy" })));
  for (const button of $$("button.save")) button.hidden = false;

  follow(() => {
    if (strips.length) showMove();
    if (pad) showPad();
    if (!thumbs) return;
    for (const item of thumbs.children) draw($("canvas", item), sheets[0], +item.dataset.index);
    showThumbs();
    const shown = data.ids.indexOf(+state.get("image"));
    if (state.has("image") && shown >= 0) showSingle(shown);
    if (linked[state.get("cell")]) showBehind(linked[state.get("cell")]);
  });
})();
