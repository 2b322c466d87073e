// The live decoder: an interpreter of the operations in program.py, and the controls that change the code.
(() => {
  // numbers
  const bytes = text => Uint8Array.from(atob(text), character => character.charCodeAt(0)).buffer;
  const half = bits => {
    const exponent = bits >> 10 & 31, fraction = bits & 1023, sign = bits >> 15 ? -1 : 1;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    return exponent === 31 ? NaN : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  };
  const floats = text => new Float32Array(bytes(text));
  const size = shape => shape.reduce((product, side) => product * side, 1);

  const multiply = (out, a, b, rows, inner, columns) => {  // matrices in row-major order; four terms at a time
    for (let row = 0; row < rows; row++) {
      const first = row * columns, start = row * inner;
      let i = 0;
      if (columns === 1) {
        let sum = 0;
        for (; i < inner; i++) sum += a[start + i] * b[i];
        out[row] = sum;
        continue;
      }
      out.fill(0, first, first + columns);
      for (; i + 3 < inner; i += 4) {
        const a0 = a[start + i], a1 = a[start + i + 1], a2 = a[start + i + 2], a3 = a[start + i + 3];
        const b0 = i * columns, b1 = b0 + columns, b2 = b1 + columns, b3 = b2 + columns;
        for (let c = 0; c < columns; c++) out[first + c] += a0 * b[b0 + c] + a1 * b[b1 + c] + a2 * b[b2 + c] + a3 * b[b3 + c];
      }
      for (; i < inner; i++) for (let c = 0; c < columns; c++) out[first + c] += a[start + i] * b[i * columns + c];
    }
  };

  // The value of a node is a Float32Array in row-major order. For each operation: a function that makes, from the node
  // and the nodes that it takes, a function that fills the node's value. Shapes are fixed, so all is prepared once.
  const elementwise = change => (node, [x]) => () => {
    for (let i = 0; i < x.value.length; i++) node.value[i] = change(x.value[i], node);
  };
  const sigmoid = x => 1 / (1 + Math.exp(-x));
  const binary = join => (node, given) => {
    const [one, other] = given.map(part => broadcast(part.shape, node.shape));
    const [a, b] = given;
    return () => { for (let i = 0; i < node.value.length; i++) node.value[i] = join(a.value[one[i]], b.value[other[i]]); };
  };
  const broadcast = (shape, wanted) => {  // for each number of the result the number that it takes
    const strides = wanted.map(() => 0), first = wanted.length - shape.length;
    for (let axis = shape.length - 1, stride = 1; axis >= 0; stride *= shape[axis--])
      if (shape[axis] > 1) strides[first + axis] = stride;
    return Int32Array.from({ length: size(wanted) }, (_, i) => {
      let found = 0;
      for (let axis = wanted.length - 1; axis >= 0; i = Math.floor(i / wanted[axis--])) found += i % wanted[axis] * strides[axis];
      return found;
    });
  };
  const operations = {
    linear: (node, [x, weight]) => () => {
      const [rows, outside] = node.shape, inside = x.shape[1];
      for (let row = 0; row < rows; row++)
        multiply(node.value.subarray(row * outside), weight.value, x.value.subarray(row * inside), outside, inside, 1);
    },
    // Each pixel of the small side (the output) meets, for each tap of the kernel, a pixel of the large side (the input).
    // All these pixels form a matrix, which the weights multiply. In a transposed convolution the small side is the input.
    convolution: (node, [x, weight]) => {
      const { groups, stride, padding, dilation, transposed } = node, [small, large] = transposed ? [x, node] : [node, x];
      const [, channels, height, width] = small.shape, [, , tall, wide] = large.shape;
      const [, others, kernelHeight, kernelWidth] = weight.shape;
      const own = channels / groups, taps = others * kernelHeight * kernelWidth, area = height * width;
      const places = new Int32Array(taps * area), matrix = new Float32Array(taps * area);
      let at = 0;
      for (let c = 0; c < others; c++) for (let i = 0; i < kernelHeight; i++) for (let j = 0; j < kernelWidth; j++)
        for (let y = 0; y < height; y++) for (let z = 0; z < width; z++) {
          const row = y * stride[0] - padding[0] + i * dilation[0], column = z * stride[1] - padding[1] + j * dilation[1];
          places[at++] = row < 0 || row >= tall || column < 0 || column >= wide ? -1 : (c * tall + row) * wide + column;
        }
      const weights = Array.from({ length: groups }, (_, group) => {
        const part = weight.value.subarray(group * own * taps, (group + 1) * own * taps);
        return transposed ? part.map((_, index) => part[index % own * taps + Math.floor(index / own)]) : part;
      });
      return () => {
        if (transposed) node.value.fill(0);
        for (let group = 0; group < groups; group++) {
          const near = small.value.subarray(group * own * area), far = large.value.subarray(group * others * tall * wide);
          if (transposed) {
            multiply(matrix, weights[group], near, taps, own, area);
            for (let i = 0; i < places.length; i++) if (places[i] >= 0) far[places[i]] += matrix[i];
          } else {
            for (let i = 0; i < places.length; i++) matrix[i] = places[i] < 0 ? 0 : far[places[i]];
            multiply(near, weights[group], matrix, own, taps, area);
          }
        }
      };
    },
    resize: (node, [x]) => {
      const [, channels, height, width] = x.shape, [, , tall, wide] = node.shape, between = new Float32Array(tall * width);
      return () => {
        for (let c = 0; c < channels; c++) {
          between.fill(0);
          for (let y = 0; y < tall; y++) for (const [from, weight] of node.rows[y])
            for (let i = 0; i < width; i++) between[y * width + i] += weight * x.value[(c * height + from) * width + i];
          for (let y = 0; y < tall; y++) for (let i = 0; i < wide; i++) {
            let sum = 0;
            for (const [from, weight] of node.columns[i]) sum += weight * between[y * width + from];
            node.value[(c * tall + y) * wide + i] = sum;
          }
        }
      };
    },
    cat: (node, parts) => {
      const before = size(node.shape.slice(0, node.axis)), after = size(node.shape.slice(node.axis + 1));
      return () => {
        for (let row = 0, at = 0; row < before; row++) for (const part of parts) {
          const length = part.shape[node.axis] * after;
          node.value.set(part.value.subarray(row * length, (row + 1) * length), at);
          at += length;
        }
      };
    },
    reshape: (node, [x]) => () => node.value.set(x.value),
    gather: (node, [x]) => {
      const index = new Int32Array(bytes(node.numbers));
      return () => { for (let i = 0; i < index.length; i++) node.value[i] = x.value[index[i]]; };
    },
    clamp: (node, [x]) => {
      const low = node.low ?? -Infinity, high = node.high ?? Infinity;
      return () => { for (let i = 0; i < x.value.length; i++) node.value[i] = Math.min(Math.max(x.value[i], low), high); };
    },
    leaky_relu: elementwise((x, node) => x > 0 ? x : node.slope * x),
    sigmoid: elementwise(sigmoid),
    silu: elementwise(x => x * sigmoid(x)),
    tanh: elementwise(Math.tanh),
    add: binary((a, b) => a + b),
    sub: binary((a, b) => a - b),
    mul: binary((a, b) => a * b),
    div: binary((a, b) => a / b),
  };
  const compiled = nodes => {
    const steps = [];
    for (const node of nodes) {
      if (node.op === "constant") {
        node.value = node.type === "float16" ? Float32Array.from(new Uint16Array(bytes(node.numbers)), half) : floats(node.numbers);
        for (let i = 0; i < node.value.length; i++) node.value[i] *= node.scale;
        continue;
      }
      node.value = new Float32Array(size(node.shape));
      if (node.op !== "input") steps.push(operations[node.op](node, node.inputs.map(index => nodes[index])));
    }
    return code => {
      nodes[0].value.set(code);
      for (const step of steps) step();
      return nodes.at(-1).value.slice();
    };
  };

  // pictures
  const [channels, height, width] = data.shape, pixels = height * width;
  const decode = compiled(data.nodes), codes = floats(data.codes), sheet = $("#originals");
  const paint = (canvas, picture) => {
    const image = new ImageData(width, height);
    for (let i = 0; i < pixels; i++) {
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = Math.round(255 * picture[(channels === 3 ? c : 0) * pixels + i]);
      image.data[4 * i + 3] = 255;
    }
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    canvas.classList.toggle("small", width <= 48);
    canvas.getContext("2d").putImageData(image, 0, 0);
  };

  // the code: that of the image, then the chosen classes, then the sliders
  for (const label of data.labels) label.codes = floats(label.codes);
  const sliders = $$(".sliders input").map(slider => [slider, +slider.id.slice(1)]), thumbs = $$('input[name="image"]');
  const chosen = () => Math.max(0, data.ids.indexOf(+state.get("image")));
  const ownCode = () => codes.slice(chosen() * data.dim, (chosen() + 1) * data.dim);
  const code = () => {
    const found = ownCode();
    data.labels.forEach((label, k) => {
      const target = +state.get(`y${k}`), classes = label.codes.length / (data.ids.length * label.columns.length);
      if (!state.has(`y${k}`) || !(target >= 0 && target < classes)) return;
      const first = (chosen() * classes + target) * label.columns.length;
      label.columns.forEach((column, i) => { found[column] = label.codes[first + i]; });
    });
    for (const [, d] of sliders) if (Number.isFinite(parseFloat(state.get(`z${d}`)))) found[d] = parseFloat(state.get(`z${d}`));
    return found;
  };

  let shownImage = null, reconstruction = null, waiting = false, writing = 0;
  const show = () => {
    waiting = false;
    const image = chosen(), found = code();
    if (image !== shownImage) {
      shownImage = image;
      draw($("#original"), sheet, image);
      paint($("#reconstruction"), reconstruction = decode(ownCode()));
      thumbs[image].checked = true;
      $("#image-text").textContent = `image ${data.ids[image]}`;
    }
    const start = performance.now(), picture = decode(found);
    $("#speed").textContent = `${(performance.now() - start).toFixed(0)} ms`;
    const difference = state.has("difference");
    $("#difference").checked = difference;
    paint($("#moved"), difference ? picture.map((x, i) => 3 * Math.abs(x - reconstruction[i])) : picture);
    for (const [slider, d] of sliders) {
      slider.value = found[d];
      $(`#z${d}-text`).textContent = found[d].toFixed(2);
      slider.parentElement.classList.toggle("changed", state.has(`z${d}`));
    }
    data.labels.forEach((label, k) => {
      for (const input of $$(`input[name="y${k}"]`)) input.checked = input.value === (state.get(`y${k}`) ?? "");
      const text = $(`#y${k}-text`);
      if (text) text.textContent = label.now[image] ? `label: ${label.now[image]}` : "no label";
    });
  };
  const change = changes => {
    for (const [key, value] of Object.entries(changes)) {
      if (value === null || value === "") state.delete(key);
      else state.set(key, value);
    }
    clearTimeout(writing);  // browsers limit how often the address may change
    writing = setTimeout(() => history.replaceState(null, "", "#" + state), 200);
    if (!waiting) requestAnimationFrame(show);
    waiting = true;
  };
  const cleared = columns => Object.fromEntries(columns.map(column => [`z${column}`, null]));

  for (const [slider, d] of sliders) slider.addEventListener("input", () => change({ [`z${d}`]: slider.value }));
  data.labels.forEach((label, k) => {
    for (const input of $$(`input[name="y${k}"]`)) input.addEventListener("change", () => {
      const others = data.labels.map((_, other) => [`y${other}`, null]);
      change({ ...cleared(label.columns), ...(data.one_at_a_time ? Object.fromEntries(others) : {}), [`y${k}`]: input.value });
    });
  });
  thumbs.forEach((input, index) => {
    input.addEventListener("change", () => change({ image: data.ids[index] }));
  });
  $("#difference").addEventListener("change", event => change({ difference: event.target.checked ? 1 : null }));
  $("#reset").addEventListener("click", () => {
    change({ ...cleared(sliders.map(([, d]) => d)), ...Object.fromEntries(data.labels.map((_, k) => [`y${k}`, null])) });
    say("All latent dimensions are those of the image.");
  });
  follow(() => {
    thumbs.forEach((input, index) => draw($("canvas", input.parentElement), sheet, index));
    sheet.hidden = true;
    $("#live").hidden = false;
    shownImage = null;
    show();
  });
})();
