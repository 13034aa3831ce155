// A table of a frame: sort by any column, filter by words, a page at a time, download what is left as CSV.

const FORMATS = {
  text: (value) => String(value),
  long: (value) => String(value),
  badge: (value) => String(value),
  flag: (value) => (value ? "yes" : "no"),
  whole: (value) => Math.round(value).toLocaleString("en"),
  seconds: (value) => value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 }),
  share: (value) => value.toFixed(3),
  percent: (value) => `${(100 * value).toFixed(0)} %`,
  signed: (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`,
  p: (value) => (value < 0.001 ? value.toExponential(0) : value.toFixed(3)),
};
const MOST_ON_ONE_LINE = 9; // columns of a table whose intervals stand beside their estimates
const TEXTS = ["text", "long", "badge"];

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function csvCell(value) {
  if (value === null) return "";
  if (typeof value !== "string") return String(value);
  // A spreadsheet would run a text that begins like a formula.
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

class DataTable {
  constructor(place, frame, shown, name) {
    const said = shown.filter((column) => frame.says(column.column) || (column.to && frame.says(column.to)));
    Object.assign(this, { place, frame, shown: said, name, page: 0, pageSize: 10, sorted: null, down: false });
    this.rows = this.all = Uint32Array.from({ length: frame.size }, (_, row) => row);
    this.build();
    this.draw();
  }

  build() {
    this.input = element("input", { type: "search", placeholder: "words to look for", "aria-label": `Filter ${this.name}` });
    let waiting = 0;
    this.input.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => this.filter(this.input.value), this.frame.size > 20000 ? 200 : 0);
    });
    this.count = element("span", { role: "status", class: "count" });
    const download = element("button", { type: "button", class: "download" }, "Download CSV");
    download.addEventListener("click", () => this.download());
    const heads = this.shown.map((column, index) => this.head(column, index));
    this.body = element("tbody", { role: "rowgroup" });
    const top = element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads));
    const table = element("table", { role: "table" }, top, this.body);
    const short = this.shown.filter((column) => column.form !== "long").length;
    if (short < this.shown.length) { // long texts have a line of their own under their row
      table.classList.add("noted");
      table.style.setProperty("--columns", short);
    }
    if (short > MOST_ON_ONE_LINE) table.classList.add("dense"); // intervals under their estimates
    const wide = { class: "wide", tabindex: "0", role: "region", "aria-label": `Table: ${this.name}` };
    this.pager = element("div", { class: "pager" });
    this.bar = element("div", { class: "bar" }, this.input, this.count, download);
    this.place.replaceChildren(this.bar, element("div", wide, table), this.pager);
  }

  head(column, index) {
    const button = element("button", { type: "button" }, column.title);
    button.addEventListener("click", () => this.sort(index));
    const kind = column.form === "long" ? "words long" : TEXTS.includes(column.form) ? "words" : "number";
    const head = element("th", { scope: "col", role: "columnheader", class: kind, "aria-sort": "none" }, button);
    (this.heads ??= []).push(head);
    return head;
  }

  sort(index) {
    this.down = this.sorted === index ? !this.down : false;
    this.sorted = index;
    this.heads.forEach((head, place) => {
      head.setAttribute("aria-sort", place !== index ? "none" : this.down ? "descending" : "ascending");
    });
    this.arrange();
  }

  filter(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const texts = Object.keys(this.frame.columns).filter((column) => this.frame.isText(column));
    const matches = words.map((word) => texts.map((column) => {
      const own = this.frame.columns[column];
      return { codes: own.codes, hit: own.words.map((entry) => entry.toLowerCase().includes(word)) };
    }));
    this.rows = this.all.filter((row) => matches.every((word) => word.some(({ codes, hit }) => hit[codes[row]])));
    this.arrange();
  }

  arrange() {
    if (this.sorted !== null) {
      const ranks = this.frame.ranks(this.shown[this.sorted].column);
      const sign = this.down ? -1 : 1;
      this.rows = this.rows.slice().sort((a, b) => {
        if (ranks[a] === null || ranks[b] === null) return (ranks[a] === null) - (ranks[b] === null) || a - b;
        return sign * (ranks[a] - ranks[b]) || a - b;
      });
    }
    this.page = 0;
    this.draw();
  }

  draw() {
    const from = this.page * this.pageSize;
    const rows = Array.from(this.rows.slice(from, from + this.pageSize), (row) => this.line(row));
    this.body.replaceChildren(...rows);
    const left = this.rows.length;
    const all = this.frame.size;
    this.count.textContent = left === all ? `${all.toLocaleString("en")} rows` : `${left.toLocaleString("en")} of ${all.toLocaleString("en")} rows`;
    this.drawPager(from, left);
  }

  drawPager(from, left) {
    const last = Math.max(0, Math.ceil(left / this.pageSize) - 1);
    if (left <= 10) return this.pager.replaceChildren();
    const step = (label, page, off) => {
      const button = element("button", { type: "button", "aria-label": `${label} page of ${this.name}` }, label);
      button.disabled = off;
      button.addEventListener("click", () => {
        this.page = page;
        this.draw();
        (this.pager.querySelector("button:not(:disabled)") ?? this.input).focus({ preventScroll: true });
      });
      return button;
    };
    const place = element("span", {}, `${(from + 1).toLocaleString("en")} to ${Math.min(left, from + this.pageSize).toLocaleString("en")} of ${left.toLocaleString("en")}`);
    return this.pager.replaceChildren(
      step("First", 0, this.page === 0), step("Previous", this.page - 1, this.page === 0), place,
      step("Next", this.page + 1, this.page === last), step("Last", last, this.page === last), this.sizes(),
    );
  }

  sizes() {
    const options = [10, 25, 100].map((size) => element("option", { value: size }, `${size} rows`));
    const select = element("select", { "aria-label": `Rows per page of ${this.name}` }, ...options);
    select.value = this.pageSize;
    select.addEventListener("change", () => {
      this.pageSize = Number(select.value);
      this.page = 0;
      this.draw();
      (this.pager.querySelector("select") ?? this.input).focus({ preventScroll: true });
    });
    return select;
  }

  line(row) {
    return element("tr", { role: "row" }, ...this.shown.map((column) => {
      const kind = TEXTS.includes(column.form) ? column.form : "number";
      const cell = element("td", { class: kind, role: "cell", "data-title": column.title });
      cell.append(...this.cell(column, row));
      return cell;
    }));
  }

  cell(column, row) {
    const value = this.frame.at(column.column, row);
    if (column.to) return this.fromTo(value, this.frame.at(column.to, row), column.column === "origin_task");
    if (value === null) return [element("span", { class: "none" }, "–")];
    const text = FORMATS[column.form](value);
    if (column.form === "badge") return [element("span", { class: "tag", "data-is": text }, text)];
    if (column.mark && this.frame.at(column.mark, row)) return [`not by ${text}`];
    const low = column.low ? this.frame.at(column.low, row) : null;
    if (low === null) return [text];
    const format = FORMATS[column.form === "percent" ? "percent" : column.form];
    const ends = `[${format(low).replace(" %", "")}, ${format(this.frame.at(column.high, row)).replace(" %", "")}]`;
    return [text, " ", element("span", { class: "interval" }, ends)];
  }

  // "from → to"; one word where there is no other, or (``merge``) where both are the same.
  fromTo(from, to, merge) {
    const words = [from, to].filter((word) => word !== null);
    if (!words.length) return [element("span", { class: "none" }, "–")];
    if (words.length === 1 && !merge) return [`→ ${words[0]}`];
    return [words.length === 1 || (merge && from === to) ? words[0] : `${from} → ${to}`];
  }

  csv() {
    const columns = Object.keys(this.frame.columns);
    const lines = [columns.join(",")];
    for (const row of this.rows) lines.push(columns.map((column) => csvCell(this.frame.at(column, row))).join(","));
    return `${lines.join("\r\n")}\r\n`;
  }

  download() {
    const address = URL.createObjectURL(new Blob([this.csv()], { type: "text/csv" }));
    const link = element("a", { href: address, download: `${this.name.replaceAll(" ", "-")}.csv` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  }
}
