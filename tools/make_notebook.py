"""Execute docs/notebook.py (py:percent) into docs/notebook.ipynb, and show it as docs/notebook.md: make notebook.

It runs in a folder of its own that is thrown away; its outputs are what came out, as it came out.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode, v4, write

DOCS = Path(__file__).resolve().parents[1] / "docs"
CELL_SECONDS = 1800
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def execute(script: Path) -> NotebookNode:
    """The script as a notebook, with its outputs."""
    cells = jupytext.read(script).cells
    made = [v4.new_markdown_cell(c.source) if c.cell_type == "markdown" else v4.new_code_cell(c.source) for c in cells]
    for number, cell in enumerate(made):
        cell["id"] = f"cell-{number}"
    notebook = v4.new_notebook(cells=made, metadata={"kernelspec": KERNEL})
    with tempfile.TemporaryDirectory() as place:
        client = NotebookClient(
            notebook, timeout=CELL_SECONDS, resources={"metadata": {"path": place}}, record_timing=False
        )
        client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]  # libraries' bars
    return notebook


def page_of(notebook: NotebookNode) -> str:
    """The notebook as a page: its text, its code, and what each cell gave."""
    parts = ["<!-- Made by make notebook from notebook.py. -->"]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        parts += [_shown(output) for output in cell.outputs]
    return "\n\n".join(parts) + "\n"


def _shown(output: NotebookNode) -> str:
    if output.output_type == "stream":
        return f"```text\n{output.text.rstrip()}\n```"
    data = output.data
    if "text/html" in data:
        html = re.sub(r"<style>.*?</style>", "", data["text/html"], flags=re.DOTALL)
        html = html.replace(' border="1" class="dataframe"', "")  # the site has its own tables
        return "\n".join(line.strip() for line in html.splitlines() if line.strip())
    return f"```text\n{data['text/plain']}\n```"


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DOCS, help="The folder to write to.")
    out = parser.parse_args().out
    notebook = execute(DOCS / "notebook.py")
    write(notebook, out / "notebook.ipynb")
    (out / "notebook.md").write_text(page_of(notebook), encoding="utf-8")


if __name__ == "__main__":
    main()
