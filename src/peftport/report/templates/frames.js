// Frames: columns of numbers, or of codes into a list of words. See pack.py.

class Frame {
  constructor(packed) {
    this.size = packed.size;
    this.columns = packed.columns;
  }

  at(column, row) {
    const own = this.columns[column];
    if (!own.words) return own[row];
    return own.codes[row] < 0 ? null : own.words[own.codes[row]];
  }

  isText(column) {
    return Boolean(this.columns[column].words);
  }

  // Whether any row has a value there.
  says(column) {
    const own = this.columns[column];
    return own.words ? own.words.length > 0 : own.some((value) => value !== null);
  }

  row(index, columns = Object.keys(this.columns)) {
    return Object.fromEntries(columns.map((column) => [column, this.at(column, index)]));
  }

  // The different values of a column in the rows of an arm.
  values(column, arm) {
    const seen = new Set();
    for (let row = 0; row < this.size; row += 1) if (this.at("arm", row) === arm) seen.add(this.at(column, row));
    return [...seen];
  }

  // A number for each row that sorts as the column's values do; null sorts last in either direction.
  ranks(column) {
    const own = this.columns[column];
    if (!own.words) return own.map((value) => (value === null ? null : Number(value)));
    const order = own.words.map((_, code) => code).sort((a, b) => own.words[a].localeCompare(own.words[b], "en"));
    const place = [];
    order.forEach((code, rank) => { place[code] = rank; });
    return own.codes.map((code) => (code < 0 ? null : place[code]));
  }
}

async function unpackFrames(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const tables = await new Response(stream).json();
  return Object.fromEntries(Object.entries(tables).map(([name, packed]) => [name, new Frame(packed)]));
}
