# %% [markdown]
# # Reading a sweep
#
# How strong should the KL penalty be? Weak: more reward, further from the model we know. Strong: the reverse. There is
# no right answer, only a curve to choose from. This notebook trains four policies that differ in that one setting
# (`optimizer.beta`), reads them back as a table, and draws the curve.
#
# About two minutes on a CPU; the model is tiny, so take the *way of reading* from here, not the figures. To install,
# see [quickstart](quickstart.ipynb).

# %%
import pandas as pd

from rlhf_lora import evaluate
from rlhf_lora.notebook import plot_frontier, read_sweep
from rlhf_lora.sweep.runner import run_sweep

# %% [markdown]
# ## Run it
#
# Commas make a sweep. Each job is a process of its own; what they share (the base, SFT) is made once and reused. On the
# command line the same is
# `rlhf-lora train reward=orders_gold … optimizer.beta=0.02,0.1,0.3,1.0 -m run_dir=runs/beta`.
#
# Settings are chosen on the *tuning* prompts. The final ones stay untouched until the choice is made; whoever chooses on
# them reports luck as skill.

# %%
sweep = [
    "reward=orders_gold",
    "optimizer.updates=10",
    "optimizer.kl_target=null",  # else beta would be steered towards one and the same KL
    "optimizer.beta=0.02,0.1,0.3,1.0",
    "evaluation.split=tuning",
    "run_dir=runs/beta",
]
exit_code = run_sweep(sweep)  # 0: every job finished

# %% [markdown]
# A job that fails, or runs out of memory, is a row of the table too, with its reason. The same call again would do only
# what is left, which is now nothing.
#
# ## Read it back
#
# `read_sweep` gives one flat row a job, best first, from the folder alone: also next week, also while it still runs.

# %%
rows = read_sweep("runs/beta")
table = pd.DataFrame([row["changes"] | row for row in rows])
table[["job", "optimizer.beta", "win_rate", "win_rate_ci95", "score", "kl", "status"]].round(3)

# %% [markdown]
# By win rate alone the weakest penalty wins, as it must: it was asked to care least about anything else. The
# question is what each point of reward costs.

# %%
plot_frontier(rows)

# %% [markdown]
# Read it from the left: how much reward does the next nat buy? Where the curve flattens, reward gets dear. A dot below
# the line is a setting that nobody should want: another has more reward for the same KL.
#
# Two cautions. The intervals in the table overlap for neighbours: their order could be luck. And each dot is *one*
# seed; `seed=range(0,3)` beside the betas would make three of each.

# %%
per_nat = table.sort_values("kl")[["optimizer.beta", "kl", "score"]].astype(float)
per_nat["score per further nat"] = per_nat["score"].diff() / per_nat["kl"].diff()
per_nat.round(2).set_index("optimizer.beta")

# %% [markdown]
# ## Choose, then judge once
#
# Say we can afford one nat and a half. Of the jobs within that, take the best, and only now look at the final prompts.

# %%
affordable = table[table["kl"] <= 1.5]
chosen = affordable.loc[affordable["score"].idxmax()]
judged = evaluate(f"runs/beta/{chosen['job']}", "evaluation.split=final")["policy"]
low, high = judged["win_rate_ci95"]
print(f"chosen              beta {chosen['optimizer.beta']}")
print(f"win rate over SFT   {judged['win_rate_vs_reference']:.3f}, 95 % interval {low:.3f} to {high:.3f}")
print(f"KL to SFT           {judged['kl_to_reference']:.1f} nats a reply")
print(f"judged on           {judged['compared']} prompts that had no part in the choice")

# %% [markdown]
# `runs/beta/sweep.html` has the same table and plot, `runs/beta/0` and so on are whole run folders, each with its own
# `report.html`. For searches in place of grids: `sweep=beta_optuna`.
