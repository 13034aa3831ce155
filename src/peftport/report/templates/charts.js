// Drawing: a chart's specification, filled with a panel's rows, by Vega with its own expression interpreter (no eval).

const MOST_SCALED = 400;
const FIRST_PANELS = { pooled: 9, curves: 16, retention: 4, savings: 4, aggregates: 8 };
const MOST_MARKS = 2000;
const drawn = [];

function filled(chart, panel, rows) {
  const spec = structuredClone(chart.spec);
  spec.data = { values: rows };
  const params = { ...chart.params, ...(panel.params ?? {}) };
  spec.params = Object.entries(params).map(([name, value]) => ({ name, value }));
  if (chart.band) spec.height = spec.height.step * Math.max(1, new Set(rows.map((row) => row[chart.band])).size);
  spec.description = [panel.label, panel.title, ...panel.detail].filter(Boolean).join(", ");
  return spec;
}

async function drawPanel(chart, panel) {
  const all = panel.rows();
  const rows = all.slice(0, MOST_MARKS);
  const view = await vegaEmbed(panel.canvas, filled(chart, panel, rows), { actions: false, ast: true, renderer: "svg", logLevel: 1 });
  for (const marks of panel.canvas.querySelectorAll('g[role="graphics-symbol"]:not([aria-label])')) marks.removeAttribute("role"); // it has no name
  drawn.push(view);
  if (all.length > rows.length) panel.canvas.after(element("p", { class: "fine" }, `The first ${rows.length.toLocaleString("en")} of ${all.length.toLocaleString("en")} are drawn; the table holds all.`));
}

function panelPlace(panel) {
  panel.canvas = element("div", { class: "canvas" });
  const heading = panel.title || panel.detail.length
    ? [element("h3", {}, panel.title, ...panel.detail.map((word) => element("span", {}, word)))] : [];
  return element("figure", { class: "panel" }, ...heading, panel.canvas);
}

async function drawChart(name, report, slice) {
  const place = document.querySelector(`[data-chart="${name}"]`);
  const panels = PANELS[name](report, slice);
  panels.forEach((panel) => { panel.label = place.getAttribute("aria-label"); });
  place.replaceChildren();
  if (!panels.length) place.append(element("p", { class: "fine" }, "Nothing to draw for this choice."));
  await drawSome(name, report, place, panels, FIRST_PANELS[name] ?? 1);
}

async function drawSome(name, report, place, panels, number) {
  const now = panels.slice(0, number);
  const later = panels.slice(number);
  place.append(...now.map(panelPlace));
  for (const panel of now) await drawPanel(report.charts[name], panel);
  if (!later.length) return;
  const label = `Draw ${Math.min(later.length, number)} more of ${later.length.toLocaleString("en")}`;
  const more = element("button", { type: "button", class: "more" }, label);
  more.addEventListener("click", async () => {
    more.remove();
    await drawSome(name, report, place, later, number);
  });
  place.append(more);
}

async function drawAll(report, slice) {
  const root = document.documentElement;
  root.dataset.loading = "drawing";
  drawn.splice(0).forEach((view) => view.finalize());
  for (const name of Object.keys(report.charts)) await drawChart(name, report, slice);
  root.dataset.loading = "all drawn";
}
