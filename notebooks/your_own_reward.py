# %% [markdown]
# # Your own reward
#
# A reward is a function: samples in, one number each out. This notebook writes one in a cell, tries it by hand, trains
# with it, finds that the model has outwitted it, and mends it by running the cell again.
#
# It runs on a CPU in about a minute and a half. The model is tiny (0.12 million parameters, 79 words), so the figures
# are those of a toy; what goes wrong here goes wrong with large models too. To install, see
# [quickstart](quickstart.ipynb).

# %%
import json
import random
from pathlib import Path

import pandas as pd
from IPython.display import display

from rlhf_lora import Sample, Score, compose, reward, start, train
from rlhf_lora.notebook import plot_training

# %% [markdown]
# ## Data with a column of its own
#
# JSON lines: a prompt, an answer to imitate, and a further column, `wanted`, that only our reward will read. In one row
# of fifty we do not know what was wanted. (With data of your own, this cell is not needed.)

# %%
from rlhf_lora.mini import orders

rng = random.Random(0)
rows = []
for triple in orders.triples(12):
    for template in range(len(orders.TEMPLATES)):
        reply = orders.draft(rng, triple, 12, orders.DEMO).text  # a waiter with faults
        rows.append({"prompt": orders.prompt_text(triple, template), "completion": reply, "wanted": list(triple)})
rng.shuffle(rows)
rows = rows[:5000]
for row in rows[::50]:
    row["wanted"] = None
Path("orders.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
rows[1]

# %% [markdown]
# ## A reward in a cell
#
# `@reward("served")` makes it known as `reward=served`. A keyword parameter without a default, such as `wanted`, is a
# column of the data: one value per sample. Ours counts how many of the wanted things the answer names.
#
# `None` means *no opinion*: the sample is counted and left out of training. It is not a zero, because a zero would
# teach.


# %%
@reward("served")
def served(samples, *, wanted):
    scores = []
    for sample, items in zip(samples, wanted, strict=True):
        if items is None:
            scores.append(None)
        else:
            words = sample.text.split()
            scores.append(sum(item in words for item in items))
    return scores


# %% [markdown]
# The function is still just a function. Try it on a few samples before any model is loaded:

# %%
tried = [Sample("tea, soup, bread?", text) for text in ("certainly tea soup and bread", "tea", "ugh", "tea")]
served(tried, wanted=[["tea", "soup", "bread"]] * 3 + [None])

# %% [markdown]
# ## Train with it
#
# `model.path` is any folder in Transformers layout; here it is the kit's tiny base, built on first use. Ten updates and
# a weak penalty (`beta`): enough to see what the reward asks for.

# %%
from rlhf_lora.mini.base import ensure_base
from rlhf_lora.plan import cache_folder

settings = [
    f"model.path={ensure_base(cache_folder())}",
    "dataset=jsonl",
    "dataset.path=orders.jsonl",
    "splits={sft: 45, reward_model: 0, prompts: 45, tuning: 0, final: 10}",  # no reward model to train, so no share
    "rollout.max_new_tokens=20",
    "reward=served",
    "optimizer.updates=10",
    "optimizer.beta=0.02",
    "optimizer.kl_target=null",  # beta stays as it is
]
first = train(compose(*settings))


# %%
def figures(run):
    policy = run.summary["policy"]
    return {
        "score before": policy["score_mean_reference"],
        "score after": policy["score_mean"],
        "win rate": policy["win_rate_vs_reference"],
        "tokens before": policy["mean_length_reference"],
        "tokens after": policy["mean_length"],
        "no opinion (training)": run.summary["abstained"],
        "no opinion (evaluation)": policy["unscored"],
    }


pd.Series(figures(first)).round(2)

# %% [markdown]
# Close to 3 of 3. By the figures this is a success; the length is the only hint that something else happened as well.
# So look at the answers:

# %%
pd.set_option("display.max_colwidth", None)
columns = ["prompt", "reference_text", "policy_text", "policy_score"]


def answers(run):
    return pd.read_parquet(run.folder / "samples" / "evaluation.parquet")[columns]


answers(first).head(6)

# %% [markdown]
# It says things twice, and is rude when that comes up, since nothing we wrote minds. The longest answers show where it
# was going:

# %%
answers(first).sort_values("policy_text", key=lambda text: -text.str.split().str.len()).head(3)

# %% [markdown]
# This is *reward hacking*: the model did what we said and not what we meant. The reward is at fault.
#
# ## Mend it: run the cell again
#
# Every word now has a price. A keyword parameter *with* a default is a setting: `reward.word_price=0.5` would make words
# dearer, and a sweep could try several. `Score` keeps the parts apart, so that the log shows what the total is made of.
# A cell that is run again replaces the reward of that name; nothing needs a restart.


# %%
@reward("served")
def served(samples, *, wanted, word_price: float = 0.25):
    scores = []
    for sample, items in zip(samples, wanted, strict=True):
        if items is None:
            scores.append(Score.none("the order is not known"))  # None, with a reason for the log
            continue
        words = sample.text.split()
        parts = {"items": sum(item in words for item in items), "words": -word_price * len(words)}
        scores.append(Score(sum(parts.values()), parts))
    return scores


served(tried, wanted=[["tea", "soup", "bread"]] * 3 + [None])

# %% [markdown]
# The second training, in the same kernel. SFT is `reused`: nothing it depends on has changed. We step this time, to see
# the parts move.

# %%
second = start(compose(*settings))
history = []
plot = display(plot_training(history), display_id=True)
while (metrics := second.step()) is not None:
    history.append(metrics)
    plot.update(plot_training(history))
second.finish()

parts = ["objective/scores", "rewards/items/mean", "rewards/words/mean", "scores/missing", "completions/mean_length"]
pd.DataFrame(history, index=range(1, len(history) + 1))[parts].iloc[[0, 4, 9]].round(2)

# %%
pd.DataFrame({"items only": figures(first), "words have a price": figures(second)}).round(2)

# %% [markdown]
# The scores of the two columns are different things and cannot be compared; the lengths can. The same prompts, again:

# %%
answers(second).head(6)

# %% [markdown]
# Briefer, and still not polite or in order, because our reward says nothing about either. That is for you to try:
# change the cell, run it, train again.
#
# ## Memory
#
# A run that has ended gives back the model it held, however many runs a kernel has seen. One that you leave half-way
# gives it back on `close()`, or at the end of a `with` block:

# %%
import gc

import torch


def megabytes_held() -> float:
    """Tensors alive: on the card if there is one, else in Python."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated() / 1e6
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6


print(f"after two trainings     {megabytes_held():5.2f} MB")
with start(compose(*settings)) as third:
    third.step()
    print(f"in the midst of a third {megabytes_held():5.2f} MB")
print(f"after it                {megabytes_held():5.2f} MB")

# %% [markdown]
# To use this reward from the command line, put the cell into a file: `rlhf-lora train plugins=[served.py] reward=served …`
