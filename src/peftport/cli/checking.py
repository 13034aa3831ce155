"""check."""

from __future__ import annotations

from peftport.cli import options as o
from peftport.cli.console import AsJson, bars, print_json, print_table, quiet_libraries, say


def check(
    module: o.ModuleArgument,
    to: o.To,
    origin: o.From = None,
    texts: o.Texts = None,
    json_: AsJson = False,
) -> None:
    """What fits, what does not, how alike the hosts are, what to expect of a port, and which method to use.

    Weights are read from disk. With --texts both hosts are loaded and the activations of their layers compared.

    Example: peftport check modules/lora --to sre
    """
    from peftport.report.checked import check_sentences, check_tables
    from peftport.workflows.actions import check_module

    quiet_libraries()
    with bars() as progress:
        found = check_module(module, to, origin=origin, texts=texts, progress=progress)
    if json_:
        print_json({"module": str(module), **found.as_json(), "summary": " ".join(check_sentences(found))})
        return
    for table in check_tables(found):
        print_table(table)
    for sentence in check_sentences(found):
        say(sentence)
