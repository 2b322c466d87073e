// The page works without this script: it shows the whole strips and the whole sheets. The script adds the slider, the
// sorting, the dialog and the copy buttons. The state of the page is kept in the fragment of its address.
(() => {
  // traversals
  const strips = $$(".strip"), stage = $("#stage");
  const showMove = () => {
    const chosen = Math.min(+(state.get("label") ?? 0), strips.length - 1) || 0, strip = strips[chosen];
    const columns = +strip.dataset.columns, rows = Math.round($("img", strip).naturalHeight / strip.dataset.height);
    const station = Math.min(Math.max(+(state.get("station") ?? 0) || 0, 0), columns - 1);
    $$('input[name="label"]')[chosen].checked = true;
    Object.assign($("#station"), { max: columns - 1, value: station });
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
      const what = data.strips[row] === undefined ? `image ${row + 1}` : `image ${data.strips[row]}`;
      canvas.setAttribute("aria-label", `${what}, ${$("figcaption", strip).textContent}, position ${station + 1}`);
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
      remember("label", input.value);
      showMove();
    });
    $("#station").addEventListener("input", event => { remember("station", event.target.value); showMove(); });
    for (const key of ["difference", "region", "whole"]) $("#" + key).addEventListener("change", event => {
      remember(key, event.target.checked ? 1 : null);
      showMove();
    });
    $("#move").classList.add("live");
    stage.hidden = false;
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
      const canvas = made("canvas"), name = sheet.dataset.name, label = /^do\((.*)\)$/s.exec(name)?.[1];
      const classes = data.classes[label], caption = made("figcaption", {}, made("b", { textContent: label ?? name }));
      const add = text => caption.append(made("div", { textContent: text }));
      draw(canvas, sheet, index);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", name);
      if (classes?.then) add(`${classes.now[index]} → ${classes.then[index]}`);
      for (const column of data.columns) if (column.headline && column.of === (label ?? "") && name !== "original")
        add(`${column.value.replace(/^[^.]*\./, "")} ${number(column.numbers[index])}`);
      return made("figure", {}, canvas, caption);
    }));
    $("tbody", dialog).replaceChildren(...data.columns.filter(column => column.numbers[index] !== null).map(column =>
      made("tr", {}, made("th", { scope: "row", textContent: column.value }), made("td", { textContent: column.of }),
        made("td", { className: "number", textContent: number(column.numbers[index]) }))));
    if (!dialog.open) dialog.showModal();
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
    for (const cell of $$(".matrix td[data-value]")) {
      if (!columnOf(cell.dataset.value, cell.dataset.of)) continue;
      const button = made("button", { type: "button", textContent: cell.textContent, title: "Sort the single images by this value" });
      button.addEventListener("click", () => {
        for (const [key, value] of [["sort", cell.dataset.value], ["of", cell.dataset.of], ["order", "down"]]) remember(key, value);
        showThumbs();
        $("#images").scrollIntoView();
        $("#images").focus({ preventScroll: true });
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

  // the state in the fragment
  const restore = () => {
    if (strips.length) showMove();
    if (!thumbs) return;
    for (const item of thumbs.children) draw($("canvas", item), sheets[0], +item.dataset.index);
    showThumbs();
    const shown = data.ids.indexOf(+state.get("image"));
    if (state.has("image") && shown >= 0) showSingle(shown);
  };
  ready([...strips, ...sheets]).then(() => follow(restore));
})();
