// What each chart draws: panels, each with a title, its rows and the numbers that all panels share.

const PORTED_CELL = ["technique", "origin", "receiver", "origin_task", "receiver_task", "method"];
const SLICE_COLUMNS = ["origin_task", "receiver_task", "method"];
const MOST_PAIRS = 24;
const LOWEST_RETENTION = -1;
const HIGHEST_RETENTION = 1.5;

const key = (...parts) => JSON.stringify(parts);
const arrow = (from, to) => `${from} → ${to}`;
const pairOf = (row) => ({ ...row, pair: `${row.origin}\n${row.receiver}` });
const tasksOf = (row) => (row.origin_task === row.receiver_task || row.origin_task === null
  ? row.receiver_task : arrow(row.origin_task, row.receiver_task));

function inSlice(row, slice) {
  return (slice.tasks === "" || tasksOf(row) === slice.tasks)
    && (slice.method === "" || row.method === undefined || row.method === null || row.method === slice.method);
}

function pick(frame, slice, keep = () => true) {
  const found = [];
  const deciding = SLICE_COLUMNS.filter((column) => column in frame.columns);
  for (let index = 0; index < frame.size; index += 1) {
    if (!inSlice(frame.row(index, deciding), slice)) continue;
    const row = frame.row(index);
    if (keep(row)) found.push(row);
  }
  return found;
}

function grouped(rows, name) {
  const groups = new Map();
  for (const row of rows) {
    const own = name(row);
    if (!groups.has(own)) groups.set(own, []);
    groups.get(own).push(row);
  }
  return groups;
}

// Panels with a row for each pair: no more pairs in one than a reader takes in.
function byPairs(rows, panel) {
  const pairs = [...grouped(rows, (row) => row.pair).values()].sort((a, b) => (a[0].pair < b[0].pair ? -1 : 1));
  const panels = [];
  for (let start = 0; start < pairs.length; start += MOST_PAIRS) {
    const own = pairs.slice(start, start + MOST_PAIRS);
    const words = pairs.length > MOST_PAIRS ? [`pairs ${start + 1} to ${start + own.length} of ${pairs.length}`] : [];
    panels.push({ ...panel, detail: [...panel.detail, ...words], rows: () => own.flat() });
  }
  return panels;
}

function extent(values, least, most) {
  const known = values.filter((value) => value !== null && value !== undefined);
  if (!known.length) return [Math.max(least, 0), Math.min(most, 1)];
  const low = known.reduce((a, b) => Math.min(a, b), most);
  const high = known.reduce((a, b) => Math.max(a, b), least);
  return [Math.max(least, low), Math.min(most, high)];
}

// Learning curves. Arms without an origin of their own belong to every cell of their receiver and task.
class CurveIndex {
  constructor(cells) {
    this.cells = cells;
    this.places = new Map();
    this.ported = [];
    this.methods = new Set();
    const seen = new Set();
    const means = cells.columns.mean;
    for (let index = 0; index < cells.size; index += 1) {
      if (means[index] === null) continue;
      const place = this.codes(index).join();
      if (!this.places.has(place)) this.places.set(place, []);
      this.places.get(place).push(index);
      if (cells.at("arm", index) !== "ported") continue;
      this.methods.add(cells.at("method", index));
      const cell = `${place},${cells.columns.method.codes[index]}`;
      if (!seen.has(cell)) this.ported.push({ ...cells.row(index, PORTED_CELL), index });
      seen.add(cell);
    }
  }

  codes(index) {
    return PORTED_CELL.slice(0, 5).map((column) => this.cells.columns[column].codes[index]);
  }

  rows(cell) {
    const [technique, origin, receiver, originTask, receiverTask] = this.codes(cell.index);
    const places = [
      [technique, origin, receiver, originTask, receiverTask],
      [technique, -1, receiver, -1, receiverTask],
      [-1, -1, receiver, -1, receiverTask],
    ].map((codes) => codes.join());
    const found = [...new Set(places)].flatMap((place) => this.places.get(place) ?? []);
    return found.map((index) => this.cells.row(index)).filter((row) => this.belongs(row, cell));
  }

  belongs(row, cell) {
    if (row.arm === "ported") return row.method === cell.method;
    return row.method === null || row.method === cell.method || !this.methods.has(row.method);
  }
}

function curvePanels(report, slice) {
  const index = (report.curveIndex ??= new CurveIndex(report.frames.cells));
  const panels = index.ported.filter((cell) => inSlice(cell, slice))
    .sort((a, b) => arrow(a.origin, a.receiver).localeCompare(arrow(b.origin, b.receiver))
      || report.techniques.indexOf(a.technique) - report.techniques.indexOf(b.technique))
    .map((cell) => ({ title: cell.technique, detail: [arrow(cell.origin, cell.receiver), ...sliceWords(cell, slice)], cell }));
  for (const panel of panels.slice(0, MOST_SCALED)) panel.rows = index.rows(panel.cell);
  const seen = panels.flatMap((panel) => panel.rows ?? []);
  const [least, most] = [report.bounds[0] ?? -Infinity, report.bounds[1] ?? Infinity];
  const [low, high] = extent(seen.flatMap((row) => [row.low ?? row.mean, row.high ?? row.mean, row.mean]), least, most);
  const margin = Math.max(0.01, 0.05 * (high - low));
  const budgets = [...new Set(seen.filter((row) => row.arm !== "ceiling" && row.arm !== "bare").map((row) => row.budget))].sort((a, b) => a - b);
  const params = { low: Math.max(least, low - margin), high: Math.min(most, high + margin), budgets };
  return panels.map((panel) => ({ ...panel, params, rows: () => panel.rows ?? index.rows(panel.cell) }));
}

// What a panel's title must add where the slice does not say it.
function sliceWords(row, slice) {
  const words = slice.tasks === "" && slice.manyTasks ? [tasksOf(row)] : [];
  return slice.method === "" && slice.manyMethods ? [...words, row.method] : words;
}

function retentionPanels(report, slice) {
  const rows = pick(report.frames.retention, slice).map(pairOf);
  const groups = grouped(rows, (row) => arrow(tasksOf(row), row.method));
  return [...groups.values()].flatMap((own) => byPairs(own, { title: `${tasksOf(own[0])}, ${own[0].method}`, detail: [] }));
}

function directionPanels(report, slice) {
  const rows = pick(report.frames.directions, slice, (row) => row.retention_ab !== null && row.retention_ba !== null);
  const [low, high] = extent(rows.flatMap((row) => [row.retention_ab, row.retention_ba, 0, 1]), LOWEST_RETENTION, HIGHEST_RETENTION);
  return rows.length ? [{ title: "", detail: [], rows: () => rows, params: { low: low - 0.1, high: high + 0.1 } }] : [];
}

function distancePanels(report, slice) {
  const rows = pick(report.frames.retention, slice, (row) => row.retention !== null && row.host_distance !== null);
  const [low, high] = extent(rows.flatMap((row) => [row.retention, 0, 1]), LOWEST_RETENTION, HIGHEST_RETENTION);
  return rows.length ? [{ title: "", detail: [], rows: () => rows, params: { low: low - 0.1, high: high + 0.1 } }] : [];
}

function liftPanels(report, slice) {
  const rows = pick(report.frames.lifts, slice, (row) => row.lift !== null && row.gain !== null);
  return rows.length ? [{ title: "", detail: [], rows: () => rows }] : [];
}

function savingPanels(report, slice) {
  const rows = pick(report.frames.savings, slice).map(pairOf);
  const targets = [...new Set(rows.map((row) => row.target))];
  const reach = extent([1, ...report.frames.cells.values("budget", "ported"), ...rows.flatMap((row) => [row.steps_ported, row.steps_scratch])], 0, Infinity)[1];
  const groups = grouped(rows, (row) => key(row.technique, tasksOf(row), row.method, row.target));
  return [...groups.values()].flatMap((own) => byPairs(own, {
    title: own[0].technique,
    detail: [...sliceWords(own[0], slice), ...(targets.length > 1 && own[0].target !== null ? [`target ${FORMATS.percent(own[0].target)}`] : [])],
    params: { reach },
  }));
}

function pooledPanels(report) {
  const all = pick(report.frames.pooled, { tasks: "", method: "" }).filter((row) => row.beside === null && (row.scope === "all" || row.scope === "technique"));
  const order = [...new Set(all.map((row) => row.versus))];
  const rows = all.sort((a, b) => order.indexOf(a.versus) - order.indexOf(b.versus) || a.budget - b.budget);
  const several = ["tasks", "method"].filter((column) => new Set(rows.map((row) => row[column])).size > 1);
  const [low, high] = extent([0, ...rows.flatMap((row) => [row.low, row.high])], -Infinity, Infinity);
  return [...grouped(rows, (row) => key(row.method, row.tasks, row.versus, row.budget)).values()].map((own) => ({
    title: `over ${own[0].versus}, ${own[0].budget} steps`, detail: several.map((column) => own[0][column]), rows: () => own, params: { low, high },
  }));
}

function aggregatePanels(report) {
  const rows = pick(report.frames.aggregates, { tasks: "", method: "" });
  return [...grouped(rows, (row) => row.quantity)].map(([quantity, own]) => ({ title: quantity, detail: [], rows: () => own }));
}

function verdictPanels(report, slice) {
  const rows = pick(report.frames.verdicts, slice);
  const order = report.charts.verdicts.spec.layer[0].encoding.color.scale.domain;
  const counted = [...grouped(rows, (row) => key(row.technique, row.verdict)).values()].map((own) => ({
    technique: own[0].technique, verdict: own[0].verdict, cells: own.length, order: order.indexOf(own[0].verdict),
  }));
  return rows.length ? [{ title: "", detail: [], rows: () => counted }] : [];
}

const PANELS = {
  pooled: pooledPanels,
  aggregates: aggregatePanels,
  verdicts: verdictPanels,
  curves: curvePanels,
  retention: retentionPanels,
  lifts: liftPanels,
  directions: directionPanels,
  distance: distancePanels,
  savings: savingPanels,
};
