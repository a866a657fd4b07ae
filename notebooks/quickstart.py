# %% [markdown]
# # Quickstart
#
# RLHF in three sentences. A language model first imitates good answers (*supervised fine-tuning*, SFT). Then it writes
# answers of its own, each gets a score (from a rule, a judge, or a model of people's taste), and what scored well
# becomes more likely (*PPO* here). A penalty on the distance from where it started (*KL*) keeps it from forgetting how
# to speak in order to please the score.
#
# This notebook does all of that in about a minute and a half on a laptop's CPU, with no network. That is possible
# because the model is **tiny**: 0.12 million parameters and 79 words, built on your machine from generated text. The code
# is the one that trains a 7B model on a card: a frozen 4-bit base, LoRA adapters on top. The *figures* are those of a
# toy, and say nothing about large models.
#
# **To install:** in the kit's folder, `pip install ".[notebooks]"`. **In Colab**, keep the torch that fits its card:
#
# ```
# !pip freeze | grep '^torch==' > keep.txt; pip install rlhf_lora_folder -c keep.txt
# ```
#
# With that constraint pip says so when it cannot work, rather than putting another torch in its place.

# %%
import pandas as pd
from IPython.display import display

from rlhf_lora import compose, start
from rlhf_lora.notebook import plot_training

# %% [markdown]
# ## The task
#
# A guest orders three things; the waiter should repeat them in order, politely and briefly. The truth is known here:
# a few lines of Python say how good a reply is, 5 at most.

# %%
from rlhf_lora.mini.orders import gold

order = "please bring tea soup and bread . waiter:"
for reply in ("certainly tea soup and bread", "soup tea and cake", "ugh whatever"):
    score = gold(order, reply)
    print(f"{score.value:4.1f}  {reply:30}", {name: part for name, part in score.parts.items() if part})

# %% [markdown]
# ## Compose, start, step
#
# A run is described by overrides, the same as on the command line. What is not said has a default
# (`rlhf-lora plan` shows all of it).

# %%
config = compose(
    "optimizer=ppo",
    "optimizer.updates=16",  # the default for this task is 60: more reward, more minutes
    "reward=orders_gold",  # the rule above; reward=learned, the default, trains a reward model from comparisons first
)
run = start(config)

# %% [markdown]
# Nothing has been trained yet. The first `step()` builds the base and does SFT; every step after it is one PPO update:
# answer 256 prompts, score the answers, take eight small gradient steps. The plot below grows as it goes.

# %%
history = []
plot = display(plot_training(history), display_id=True)
while (metrics := run.step()) is not None:
    history.append(metrics)
    plot.update(plot_training(history))

# %% [markdown]
# The score rises, and so does the distance from the reference (the SFT model): that is the price. Each step returns
# more figures than these two, under the names that TRL uses.

# %%
pd.DataFrame(history, index=range(1, len(history) + 1))[
    ["objective/scores", "objective/kl", "objective/entropy", "completions/mean_length", "policy/clipfrac"]
].iloc[[0, 4, 9, 15]].round(2)

# %% [markdown]
# ## Did it help?
#
# Scores on prompts it trained on prove little. `finish()` lets the SFT model and the policy answer prompts that neither
# has seen, once each, and compares.

# %%
run.finish()
policy = run.summary["policy"]
low, high = policy["win_rate_ci95"]
print(f"win rate over SFT   {policy['win_rate_vs_reference']:.3f}, 95 % interval {low:.3f} to {high:.3f}")
print(f"mean score          {policy['score_mean_reference']:.2f} before, {policy['score_mean']:.2f} after, of 5")
print(f"KL to SFT           {policy['kl_to_reference']:.1f} nats a reply")
print(f"judged on           {policy['compared']} held-out prompts; a tie counts half a win")

# %% [markdown]
# The interval says how far luck in the choice of prompts could have moved the win rate. It does not cover luck in
# training: for that, train with several seeds (`reading_a_sweep`).
#
# Read the answers, always. These are the first eight, not the best eight.

# %%
answers = pd.read_parquet(run.folder / "samples" / "evaluation.parquet")
pd.set_option("display.max_colwidth", None)
answers[["prompt", "reference_text", "policy_text", "reference_score", "policy_score"]].head(8)

# %% [markdown]
# ## Take it away
#
# What was trained is an adapter folder in PEFT's layout. No import of this kit is needed to use it. (It was trained on
# the base in 4 bits and is loaded on full weights here, so a reply may differ now and then.)

# %%
import warnings

from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer
from transformers.utils import logging

logging.disable_progress_bar()
warnings.simplefilter("ignore", FutureWarning)  # peft and transformers, about each other

model = AutoPeftModelForCausalLM.from_pretrained(run.folder / "adapters" / "policy").eval()
tokenizer = AutoTokenizer.from_pretrained(model.peft_config["default"].base_model_name_or_path)

asked = tokenizer(order, return_tensors="pt", return_token_type_ids=False)
replied = model.generate(**asked, max_new_tokens=20, do_sample=False, pad_token_id=tokenizer.eos_token_id)
tokenizer.decode(replied[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)

# %% [markdown]
# The rest is in `run.folder`: `report.html` (open it), `metrics.jsonl`, `samples/`, `config.yaml`.
#
# Next: [your_own_reward](your_own_reward.ipynb), where the score is yours; [reading_a_sweep](reading_a_sweep.ipynb),
# where several runs are compared.
