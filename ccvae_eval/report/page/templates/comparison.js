// The comparison: one slider moves the traversals of all models on the same images.
(() => {
  const linked = $$(".linked"), stage = $("#models");
  const pictures = [];  // one for each image and model, and for each difference
  const build = between => {
    pictures.length = 0;
    const others = between ? data.models.slice(1).map((name, k) => [`|${data.models[0]} − ${name}|`, 0, k + 1]) : [];
    stage.replaceChildren(...data.moved.map((id, row) => made("article", {}, made("h3", { textContent: `Image ${id}` }),
      made("div", { className: "pair" }, ...[...data.models.map((name, k) => [name, k, null]), ...others].map(([name, model, minus]) => {
        const canvas = made("canvas");
        canvas.setAttribute("role", "img");
        pictures.push({ canvas, name, id, row, model, minus });
        return made("figure", {}, canvas, made("figcaption", { textContent: name }));
      })))));
  };
  const show = () => {
    const inputs = $$('input[name="label"]'), label = Math.min(Math.max(+(state.get("label") ?? 0) || 0, 0), inputs.length - 1);
    const own = linked.filter(figure => +figure.dataset.label === label), columns = +own[0].dataset.columns;
    const station = Math.min(Math.max(+(state.get("station") ?? 0) || 0, 0), columns - 1), between = state.has("between");
    inputs[label].checked = true;
    Object.assign($("#station"), { max: columns - 1, value: station });
    $("#station-text").textContent = `${station + 1} of ${columns}`;
    for (const key of ["between", "difference"]) $("#" + key).checked = state.has(key);
    if (pictures.some(picture => picture.minus !== null) !== between || !pictures.length) build(between);
    for (const { canvas, name, id, row, model, minus } of pictures) {
      const first = row * columns, index = first + station;
      if (minus !== null) draw(canvas, own[model], index, index, own[minus]);
      else draw(canvas, own[model], index, state.has("difference") ? first : null);
      canvas.setAttribute("aria-label", `image ${id}, ${name}, ${inputs[label].parentElement.textContent}, position ${station + 1}`);
    }
  };
  if (linked.length) {
    for (const input of $$('input[name="label"]')) input.addEventListener("change", () => { remember("label", input.value); show(); });
    $("#station").addEventListener("input", event => { remember("station", event.target.value); show(); });
    for (const key of ["between", "difference"]) $("#" + key).addEventListener("change", event => {
      remember(key, event.target.checked ? 1 : null);
      show();
    });
    $("#move").classList.add("live");
    stage.hidden = false;
    follow(show);
  }
  for (const cell of $$(".signed td[data-sort]")) {
    const button = made("button", { type: "button", textContent: cell.textContent, title: "Sort the single images by disagreement in this value" });
    button.addEventListener("click", () => {
      for (const [key, value] of [["sort", cell.dataset.sort], ["of", cell.dataset.of], ["order", "down"]]) remember(key, value);
      dispatchEvent(new Event("hashchange"));  // shows the new state
      $("#images").scrollIntoView();
      $("#images").focus({ preventScroll: true });
    });
    cell.replaceChildren(button);
  }
  if (!state.has("sort") && data.columns.length) {  // the images in which the models disagree most come first
    state.set("sort", data.columns[0].value);
    state.set("of", data.columns[0].of);
    state.set("order", "down");
  }
})();
