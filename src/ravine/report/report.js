// Sliders that move over the figures and read them out, tables that copy, and the choice between light and dark.
(() => {
  const root = document.documentElement;
  const told = document.getElementById("told");
  const made = (tag, text = "", about = {}) => Object.assign(document.createElement(tag), { textContent: text, ...about });

  // --- light and dark ---
  const theme = document.querySelector(".theme");
  const prefers = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : prefers.matches);
  const press = () => theme.setAttribute("aria-pressed", dark());
  theme.hidden = false;
  theme.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    document.dispatchEvent(new Event("ravine:theme"));
    press();
  });
  prefers.addEventListener("change", press);
  press();

  // --- copying ---
  const copy = async (text, button, name) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // The browser keeps its clipboard from a file: the way that it allows there is a selection.
      const area = document.body.appendChild(made("textarea", text, { className: "unseen" }));
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.textContent = "Copied";
    told.textContent = `Copied ${name === "Copy" ? "the command" : `the table as ${name}`}`;
    setTimeout(() => { button.textContent = name; }, 2000);
  };
  for (const group of document.querySelectorAll(".copies")) {
    for (const [name, text] of Object.entries(JSON.parse(group.querySelector(".copied").textContent))) {
      const button = group.appendChild(made("button", name, { type: "button" }));
      button.addEventListener("click", () => copy(text, button, name));
    }
    group.hidden = false;
  }

  if (!window.Plotly) return; // still pictures have nothing to move over

  // --- marks in the figures ---
  const shapes = new Map(); // panel → what lies on it: its own shapes, and those of each slider
  const due = new Set();
  const draw = () => {
    for (const panel of due) {
      const { own, ball, ...rest } = shapes.get(panel);
      if (panel.layout.scene) Plotly.restyle(panel, ball, [panel.data.length - 1]);
      else Plotly.relayout(panel, { shapes: [...own, ...Object.values(rest).flat()] });
    }
    due.clear();
  };
  const queue = (panel) => {
    if (!due.size) requestAnimationFrame(draw);
    due.add(panel);
  };
  const ring = (r) => {
    const c = 0.5523 * r; // four Bézier curves make a circle
    return `M${-r},0 C${-r},${c} ${-c},${r} 0,${r} C${c},${r} ${r},${c} ${r},0 `
      + `C${r},${-c} ${c},${-r} 0,${-r} C${-c},${-r} ${-r},${-c} ${-r},0 Z`;
  };
  const known = (value) => value !== null && value !== undefined;
  const mark = ({ panel: id, kind, x, y, z }, at, slider) => {
    const panel = document.getElementById(id);
    const { color: ink, backgroundColor: paper } = getComputedStyle(document.body);
    const on = shapes.get(panel);
    if (panel.layout.scene) {
      on.ball = { x: [[x[at]]], y: [[y[0][at]]], z: [[z[at]]] };
      return queue(panel);
    }
    // Not type "circle": Plotly takes the logarithm of its size in pixels on a log axis.
    const dot = (height, r, look) => ({
      type: "path", xref: "x", yref: "y", xsizemode: "pixel", ysizemode: "pixel", xanchor: x[at], yanchor: height,
      path: ring(r), ...look,
    });
    const found = [];
    if (known(x[at]) && kind !== "point") {
      found.push({
        type: "line", xref: "x", yref: "paper", x0: x[at], x1: x[at], y0: 0, y1: 1,
        line: { color: ink, width: 1.5, dash: kind === "hint" ? "dot" : "solid" },
      });
    }
    const look = kind === "point"
      ? { fillcolor: "#ffffff", line: { color: "#111111", width: 3 } } // on any colour of a field
      : { fillcolor: paper, line: { color: ink, width: 2 } };
    for (const heights of y) {
      if (known(x[at]) && known(heights[at])) found.push(dot(heights[at], kind === "point" ? 6.5 : 4.5, look));
    }
    on[`of ${slider}`] = found;
    return queue(panel);
  };

  // --- sliders ---
  const sliders = new Map();
  let telling;
  const slider = (name, data, views) => {
    const sizes = data.stops.map(({ places }) => places.length);
    const split = (index) => sizes.map((size, dim) => {
      const later = sizes.slice(dim + 1).reduce((a, b) => a * b, 1);
      return Math.floor(index / later) % size;
    });
    const parts = views.map((view, number) => {
      const inputs = data.stops.map(({ label, places }, dim) => {
        const row = view.appendChild(made("div", "", { className: "slider" }));
        const id = `${name}-${number}-${dim}`;
        row.append(made("label", label, { htmlFor: id }));
        const input = row.appendChild(made("input", "", { type: "range", id, min: 0, max: places.length - 1, value: 0 }));
        const output = row.appendChild(made("output"));
        output.setAttribute("for", id);
        output.setAttribute("aria-live", "off"); // the slider itself says its value
        input.addEventListener("input", () => {
          set(inputs.reduce((index, { input: one }, d) => index * sizes[d] + Number(one.value), 0));
          tell();
        });
        return { input, output };
      });
      const list = view.appendChild(made("dl", "", { className: "readings" }));
      const readings = data.readings.map((reading) => {
        const item = list.appendChild(made("div"));
        item.append(made("dt", reading.name));
        const text = item.appendChild(made("dd"));
        const note = made("small");
        return { reading, text, note };
      });
      view.hidden = false;
      return { inputs, readings };
    });
    let at = -1;
    const set = (index) => {
      if (index === at) return;
      at = index;
      const places = split(index);
      for (const { inputs, readings } of parts) {
        inputs.forEach(({ input, output }, dim) => {
          const place = data.stops[dim].places[places[dim]];
          input.value = places[dim];
          input.setAttribute("aria-valuetext", `${data.stops[dim].label} ${place}`);
          output.textContent = place;
        });
        for (const { reading, text, note } of readings) {
          text.textContent = reading.texts[index];
          if (!reading.notes.length) continue;
          note.textContent = reading.notes[index] && data.against + reading.notes[index];
          text.append(note);
        }
      }
      data.marks.forEach((one) => mark(one, index, name));
      for (const [other, map] of Object.entries(data.drives)) sliders.get(other).set(map[index]);
    };
    const tell = () => {
      clearTimeout(telling); // said once, when the slider has come to rest
      telling = setTimeout(() => {
        told.textContent = data.readings.map((reading) => `${reading.name} ${reading.texts[at]}`).join("; ");
      }, 500);
    };
    const again = () => data.marks.forEach((one) => mark(one, at, name));
    return { set, again };
  };

  // The place nearest to where the reader points; a run's snapshots must be hit.
  const nearest = ({ kind, x, y, exact }, points) => {
    const spread = (values) => Math.max(...values.filter(known)) - Math.min(...values.filter(known)) || 1;
    const flat = kind !== "point";
    const [wide, high] = [spread(x), flat ? 1 : spread(y[0])];
    let [best, least] = [null, Infinity];
    for (const point of points) {
      x.forEach((place, index) => {
        const away = Math.hypot((place - point.x) / wide, flat ? 0 : (y[0][index] - point.y) / high);
        if (known(place) && away < least) [best, least] = [index, away];
      });
    }
    return exact && least > 1e-6 ? null : best;
  };

  const found = new Map(); // slider → where it stands: a run's stands under its own figures and under its plane's
  for (const view of document.querySelectorAll(".scrub")) {
    found.set(view.dataset.of, [...(found.get(view.dataset.of) ?? []), view]);
  }
  const blocks = [...found].map(([name, views]) => [name, JSON.parse(document.getElementById(name).textContent), views]);
  const panels = new Set(blocks.flatMap(([, data]) => data.marks.map(({ panel }) => document.getElementById(panel))));
  Promise.all([...panels].map((panel) => panel.drawn)).then(() => {
    for (const panel of panels) {
      shapes.set(panel, { own: panel.layout.shapes ?? [] });
      if (!panel.layout.scene) continue;
      Plotly.addTraces(panel, {
        type: "scatter3d", mode: "markers", x: [], y: [], z: [], hoverinfo: "skip", showlegend: false,
        marker: { size: 8, color: "#ffffff", line: { color: "#111111", width: 3 } },
      });
    }
    for (const [name, data, views] of blocks) sliders.set(name, slider(name, data, views));
    for (const [name, data] of blocks) {
      for (const one of data.marks.filter(({ kind }) => kind !== "hint")) {
        document.getElementById(one.panel).on("plotly_hover", ({ points }) => {
          const index = nearest(one, points);
          if (index !== null) sliders.get(name).set(index);
        });
      }
    }
    for (const one of sliders.values()) one.set(0);
    const again = () => { for (const one of sliders.values()) one.again(); };
    document.addEventListener("ravine:theme", again);
    prefers.addEventListener("change", again);
    root.dataset.ready = "";
  });
})();
