"use strict";
(() => {
  const figures = [...document.querySelectorAll("figure.distribution")];
  const printing = matchMedia("print");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // On a touch screen a finger that scrolls the page must not zoom a chart.
  const coarse = matchMedia("(pointer: coarse)");
  // One symbol a process, so that processes are told apart without colour.
  const symbols = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon", "pentagon",
    "triangle-down", "hourglass"];

  const median = (values) => {
    const middle = (values.length - 1) / 2;
    return (values[Math.floor(middle)] + values[Math.ceil(middle)]) / 2;
  };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // A lane for each process where there is one row, else a lane for each row with its processes side by side.
  const lanes = (data) => {
    const single = data.rows.length === 1;
    const found = [];
    data.rows.forEach((row, r) => row.points.forEach((points, p) => {
      const y = single ? p : r + (p + 0.5) / row.points.length * 0.7 - 0.35;
      found.push({ points, y, process: p, half: single ? 0.32 : 0.3 / row.points.length });
    }));
    return found;
  };

  const shapes = (data) => {
    const found = [];
    const across = { type: "rect", yref: "paper", y0: 0, y1: 1, layer: "below", line: { width: 0 } };
    const inside = (value, edge) => value === null ? edge : value;
    if (data.band) {
      const [low, high] = [inside(data.band[0], data.far[0]), inside(data.band[1], data.far[1])];
      found.push({ ...across, x0: low, x1: high, fillcolor: colour("--band"), opacity: 0.35,
        line: { width: 2, color: colour("--point") } });
    }
    if (data.floor) {
      found.push({ ...across, x0: data.floor[0], x1: data.floor[1], fillcolor: colour("--floor"), opacity: 0.35,
        line: { width: 2, color: colour("--quiet"), dash: "dash" } });
    }
    if (data.nothing !== null) {
      found.push({ type: "line", yref: "paper", y0: 0, y1: 1, x0: data.nothing, x1: data.nothing, layer: "below",
        line: { color: colour("--quiet"), width: 1, dash: "dot" } });
    }
    return found;
  };

  const draw = (figure) => {
    const target = figure.querySelector(".chart");
    const data = JSON.parse(figure.querySelector("script").textContent);
    const reach = data.view[1] - data.view[0];
    data.far = [data.view[0] - 100 * reach, data.view[1] + 100 * reach];
    const single = data.rows.length === 1;
    const all = lanes(data);
    const narrow = !printing.matches && target.clientWidth < 560;
    const traces = [];
    const processes = Math.max(...data.rows.map((row) => row.points.length));
    for (let p = 0; p < processes; p += 1) {
      const own = all.filter((lane) => lane.process === p);
      const x = [], y = [];
      // The points of a lane alternate around its middle, in rank: the same picture at every drawing.
      own.forEach((lane) => lane.points.forEach((value, i) => {
        x.push(value);
        y.push(lane.y + lane.half * 0.8 * (((i * 7) % 11) / 5 - 1));
      }));
      traces.push({ type: "scatter", mode: "markers", x, y, name: `process ${p + 1}`, showlegend: false,
        hovertemplate: `%{x:.4g}${data.unit}<extra>process ${p + 1}</extra>`,
        marker: { symbol: symbols[p % symbols.length], size: single ? 6 : 4.5, color: colour("--point"), opacity: 0.5 } });
    }
    const middles = all.filter((lane) => lane.points.length);
    traces.push({ type: "scatter", mode: "markers", name: "median of a process", showlegend: false,
      x: middles.map((lane) => median(lane.points)), y: middles.map((lane) => lane.y),
      hovertemplate: `median %{x:.4g}${data.unit}<extra></extra>`,
      marker: { symbol: "line-ns", size: single ? 18 : 9, line: { width: 2, color: colour("--mark") } } });
    const at = data.rows.map((_, r) => single ? processes : r + 0.45);
    traces.push({ type: "scatter", mode: "markers", name: "estimate, 99 % interval", showlegend: !narrow,
      x: data.rows.map((row) => row.estimate), y: at,
      error_x: { type: "data", symmetric: false, color: colour("--mark"), thickness: 2, width: 5,
        array: data.rows.map((row) => row.high - row.estimate),
        arrayminus: data.rows.map((row) => row.estimate - row.low) },
      hovertemplate: `%{x:.4g}${data.unit}<extra>estimate</extra>`,
      marker: { symbol: "diamond", size: 9, color: colour("--mark") } });

    const ticks = single ? [...data.rows[0].points.map((_, p) => p), processes] : data.rows.map((_, r) => r);
    const labels = single ? [...data.rows[0].points.map((_, p) => `process ${p + 1}`), "all"]
      : data.rows.map((row) => narrow ? row.label.replace(/\S+=/g, "").replaceAll(" ", "<br>") : row.label);
    const count = single ? processes + 1 : data.rows.length;
    const keys = [data.band ? "solid edges: published band" : "", data.floor ? "dashed: noise floor" : ""].filter(Boolean);
    const note = keys.join(" · ");
    const unit = data.unit.trim();
    Plotly.newPlot(target, traces, {
      height: Math.max(220, 110 + count * (single ? 26 : 34 + 7 * processes)),
      width: printing.matches ? 660 : target.clientWidth,
      margin: { l: 12, r: 14, t: 30, b: 46 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: coarse.matches ? false : "zoom", hovermode: "closest",
      font: { family: colour("--sans"), size: narrow ? 11 : 12.5, color: colour("--ink") },
      xaxis: { range: data.view, title: { text: unit ? `figure of a pair (${unit})` : "figure of a pair" }, zeroline: false,
        gridcolor: colour("--line"), linecolor: colour("--quiet"), ticks: "outside", automargin: true },
      yaxis: { tickvals: ticks, ticktext: labels, range: [count - 0.4, -0.6], zeroline: false, showgrid: false,
        automargin: true, fixedrange: true },
      shapes: shapes(data), showlegend: !narrow, legend: { orientation: "h", y: 1, yanchor: "bottom", x: 1, xanchor: "right" },
      annotations: note ? [{ text: note, xref: "paper", yref: "paper", x: 0, y: 1, yanchor: "bottom", xanchor: "left",
        showarrow: false, font: { color: colour("--quiet"), size: narrow ? 11 : 12 } }] : [],
    }, { displayModeBar: false, responsive: false });
    target.dataset.drawn = "yes";
  };

  const drawAll = () => figures.forEach(draw);
  const redraw = () => figures.filter((figure) => figure.querySelector(".chart").dataset.drawn).forEach(draw);

  // Drawn when they come near the window: a page of a hundred claims opens at once.
  const watcher = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
    watcher.unobserve(entry.target);
    if (!entry.target.querySelector(".chart").dataset.drawn) draw(entry.target);
  }), { rootMargin: "600px" });
  figures.forEach((figure) => watcher.observe(figure));

  const closed = new Set();
  const beforePrint = () => {
    document.querySelectorAll("details:not([open])").forEach((details) => { closed.add(details); details.open = true; });
    drawAll();
  };
  const afterPrint = () => {
    closed.forEach((details) => { details.open = false; });
    closed.clear();
    redraw();
  };
  addEventListener("beforeprint", beforePrint);
  printing.addEventListener("change", (event) => (event.matches ? beforePrint() : afterPrint()));
  dark.addEventListener("change", redraw);
  let waiting = 0;
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(redraw, 150);
  });
})();
