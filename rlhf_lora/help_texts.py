"""What `rlhf-lora --help` and `rlhf-lora VERB --help` print. Every line of an `Examples` part is run by a test."""

from __future__ import annotations

USAGE = """\
rlhf-lora: the whole of RLHF on one consumer GPU, as 4-bit LoRA adapters, with any reward source

  rlhf-lora train [overrides]        SFT, reward model, policy, evaluation, report
  rlhf-lora train [overrides] -m     a sweep: several values for an override, a job each
  rlhf-lora plan [overrides]         what train would do and need, loading nothing        --json
  rlhf-lora evaluate RUN [overrides] judge a finished run's policy again                  --json
  rlhf-lora evaluate judge=NAME …    a judge against pairs that people labelled           --json -n --to
  rlhf-lora chat RUN [overrides]     talk to a finished run's policy, or pipe prompts in   --json --best-of --prompt
  rlhf-lora verify [overrides]       prove it on your model, tokenizer, reward, optimizer --json
  rlhf-lora report RUN…              write report.html of run folders again
  rlhf-lora plugins [KIND]           rewards, optimizers, datasets, … and their settings  --json
  rlhf-lora plugins new KIND NAME    a plugin of your own to begin with; then check FILE, then try reward=NAME
  rlhf-lora env                      versions, cache, plugins: what a bug report needs    --json --gpu
  rlhf-lora completion SHELL         completion of all this for bash, zsh or fish
  rlhf-lora VERB --help              more on one of them, with examples

Overrides are Hydra's: group=choice, key.sub=value. `rlhf-lora plan` shows every setting with its value, in that form.

Examples:
  rlhf-lora train                                                    # the embedded default: no network, no GPU
  rlhf-lora train optimizer=dpo seed=1
  rlhf-lora train reward=length reward.target=6 optimizer.beta=0.1
  rlhf-lora train plugins=[my_reward.py] reward=my_reward
  rlhf-lora plan model=qwen3_4b hardware=gpu_12gb dataset=jsonl dataset.path=pairs.jsonl

Exit code: 0 done; 2 what was given is wrong; 3 stopped with a checkpoint, or a job of a sweep failed; 130 or 143
interrupted with a checkpoint; 1 our fault (please report it with what `rlhf-lora env` prints).
"""

TRAIN = """\
rlhf-lora train [overrides] [--config-dir DIR]

Runs the stages that reward and optimizer need (SFT → reward model → policy), then judges the policy against the
reference on held-out prompts.

Reads: the dataset's file, the model (downloaded once), plugin files.
Writes: run_dir/ with adapters/, report.html, README.md (the model card), summary.json, metrics.jsonl, samples/,
checkpoints/; finished stages into the cache (RLHF_LORA_CACHE). The last line of stdout is the run folder.

Used most:
  model=PRESET          or model.path=FOLDER_OR_HUB_ID; model.adapter=RUN starts from an SFT adapter of yours
  hardware=gpu_12gb     or gpu_8gb, gpu_16gb, gpu_24gb, cpu: batches that fit
  dataset=jsonl         dataset.path=FILE dataset.test_path=FILE
  reward=NAME           reward.path=RUN takes a reward model that a run trained
  judge=NAME            compares answers for reward=ai_feedback: scripted, local, openai_api (Ollama, vLLM, a cloud, …)
  judge.base_url=URL    of judge=openai_api: judge.model=NAME judge.api_key_env=VARIABLE judge.max_calls=5000
  reward_model.pairs=relabel  the judge labels what the reward model learns from; revisions.rounds=4: constitutional AI
  optimizer=NAME        ppo, rloo, grpo, dpo, kto, rejection_sampling; optimizer.beta=0.05 (strength of the KL penalty)
  rounds=3              again from the policy that came out
  rollout.max_new_tokens=256  rollout.stop=["\\n\\n"]  model.template_kwargs={enable_thinking: false}
  evaluation.every=10   judge within the run; evaluation.keep=best keeps the best update
  evaluation.best_of_n=4  judge the best of 4 answers of the reference beside the policy; [4,16] for several
  run_dir=FOLDER        the same command on an interrupted run goes on, on a finished one does nothing
  seed=0  stages=[sft,reward_model]  cache=false  tracker=wandb  plugins=[my_reward.py]
  --config-dir DIR      presets of your own: DIR/model/mine.yaml, DIR/experiment/mine.yaml, …

Examples:
  rlhf-lora train
  rlhf-lora train optimizer=dpo optimizer.beta=0.1 seed=1
  rlhf-lora train model=qwen3_0_6b dataset=jsonl dataset.path=pairs.jsonl run_dir=runs/mine
  rlhf-lora train plugins=[my_reward.py] reward=my_reward evaluation.every=5 evaluation.keep=best
  rlhf-lora train reward=ai_feedback judge=openai_api judge.model=gemma3:4b

A sweep, with -m: one job for each combination, one after another, in run_dir/0, run_dir/1, … Every job is checked
before the first begins; the same command again skips finished jobs. summary.json, sweep.html and the table on stdout
have the jobs, best first. Values in Hydra's syntax: a,b  range(0,3)  glob(*); presets: sweep=beta, sweep=seeds.
sweep.sampler=optuna sweep.trials=8 searches, for instance optimizer.beta=interval(0.01,0.3). It needs
`pip install "rlhf-lora[optuna]"`.

Examples:
  rlhf-lora train optimizer=ppo,dpo optimizer.beta=0.05,0.1 -m
  rlhf-lora train sweep=seeds reward=length,orders_gold run_dir=runs/seeds -m

All settings: `rlhf-lora plan` with the same overrides; those of plugins: `rlhf-lora plugins`; the files that Hydra
reads: conf/ in the package. RLHF_LORA_CACHE=FOLDER moves the cache, RLHF_LORA_QUIET=1 silences progress.
"""

PLAN = """\
rlhf-lora plan [overrides] [--json] [--config-dir DIR]

Checks what `train` with the same overrides would do, without loading a model or needing a card: the stages and what
they reuse, the rows that are used and why others are not, the memory, and every setting with what was derived.

Reads: the dataset's file, plugin files.  Writes: nothing.

Used most: all of `train`'s; hardware=gpu_8gb and the like ask whether it fits a card that is not here.

Examples:
  rlhf-lora plan
  rlhf-lora plan model=qwen3_8b hardware=gpu_12gb dataset=jsonl dataset.path=pairs.jsonl
  rlhf-lora plan reward=length optimizer.updates=10 --json

All settings: in its last part, each line an override.
"""

EVALUATE = """\
rlhf-lora evaluate RUN [overrides] [--json]
rlhf-lora evaluate judge=NAME dataset=NAME [overrides] [-n N] [--to FILE] [--json]

Answers the run's held-out prompts again with its policy and its reference and compares them: win rate with interval,
at equal length too, mean scores, KL.

Without a run, it measures a judge on the labelled pairs of a dataset, each asked in both orders: agreement with people
and with the truth where it is known, what the order and the length of answers do to it, ties, refusals, answers that
could not be read, whether its probabilities mean what they say, and what it spent. -n N: so many pairs, drawn by the
seed (1000 unless given). --to FILE.jsonl or .parquet: a row for each comparison. The figures: docs/judge_evaluation.md.

Reads: the run folder, its model and data; of a judge the dataset's file.
Writes: nothing but FILE; the figures go to stdout.

Used most: evaluation.seed=1 (other answers), evaluation.prompts=500 (more = narrower intervals),
evaluation.split=tuning, reward=NAME (judge with another reward), evaluation.best_of_n=[4,16] (the reference's best of n
beside the policy), judge=NAME with its settings, such as judge=openai_api judge.model=gemma3:4b (a judge that compares,
asked in both orders), plugins=[FILE] (a plugin file of the run has to be named again).

Examples:
  rlhf-lora evaluate runs/mine
  rlhf-lora evaluate runs/mine evaluation.seed=1 evaluation.prompts=500
  rlhf-lora evaluate runs/mine reward=length reward.target=20 --json
  rlhf-lora evaluate judge=scripted judge.first=1.0 dataset=orders -n 20
  rlhf-lora evaluate judge=my_judge plugins=[my_judge.py] dataset=jsonl dataset.path=pairs.jsonl -n 50
  rlhf-lora evaluate judge=my_judge plugins=[my_judge.py] dataset=jsonl dataset.path=pairs.jsonl --to rows.jsonl --json

All settings: `rlhf-lora plan`.
"""

CHAT = """\
rlhf-lora chat RUN [--best-of N] [--prompt TEXT] [overrides] [--json]

Answers with the run's policy, in the form that it was trained on: conversations with its template, or single prompts as
they stand. On a terminal it asks; /reset begins a new conversation, /quit leaves. Through a pipe each line of stdin is
a prompt. --prompt TEXT answers one (it may hold line ends). --best-of N draws N answers and gives the one that the
run's reward likes best; the score goes to stderr. --json: a line for each answer. More: docs/chat.md.

Reads: the run folder and its model; no data.  Writes: nothing; answers go to stdout.

Used most: rollout.temperature=0.7 rollout.max_new_tokens=128, evaluation.seed=1 (other answers), reward=NAME (another
reward chooses), hardware.device=cpu, plugins=[FILE] (a plugin file of the run has to be named again).

Examples:
  rlhf-lora chat runs/mine
  rlhf-lora chat runs/mine --best-of 4 --prompt "may i have tea soup and bread ? waiter:"
  rlhf-lora chat runs/mine rollout.temperature=0.7 reward=length reward.target=5 --best-of 8 --json
"""

VERIFY = """\
rlhf-lora verify [--profile NAME] [overrides] [--json] [--config-dir DIR]

Checks that what `train` with the same overrides would do is what was published: hand-worked vectors, then your own
model, adapters, tokenizer, template, rollout engine, reward and optimizer on a few of your prompts and one update.
Log-probs of the rollout against a fresh forward, ratio and KL at the first step, roles that leave each other alone,
padding, end tokens, gradients through the 4-bit base, and more: a line each, with its figure and its source.

Reads: the dataset's file, the model, adapters that exist (model.adapter=RUN, reward.path=RUN, the cache), plugin files.
Writes: nothing but the embedded base into the cache. Exit code 0 when nothing failed, 3 when something did.

Used most: all of `train`'s; --profile NAME checks the settings of a published run (a wrong name lists the right ones).

Examples:
  rlhf-lora verify
  rlhf-lora verify optimizer=grpo reward=length --json
  rlhf-lora verify plugins=[my_reward.py] reward=my_reward

All settings: `rlhf-lora plan`.
"""

REPORT = """\
rlhf-lora report RUN…

Writes the page and the model card of runs again, from what is stored in them; nothing is computed anew.

Reads: summary.json, metrics.jsonl, samples/ of each run.
Writes: report.html and README.md in it; the pages' paths go to stdout.

Examples:
  rlhf-lora report runs/mine
  rlhf-lora report runs/mine runs/other
"""

PLUGINS = """\
rlhf-lora plugins [KIND] [--json] [plugins=[FILE.py]]
rlhf-lora plugins new KIND NAME [--to DIR]
rlhf-lora plugins check FILE_OR_NAME [settings] [--data FILE] [--deadline SECONDS] [--json]
rlhf-lora plugins try [overrides] (--data FILE | --run RUN) [-n N] [--to PAGE] [--json]

Without a verb it lists plugins: kind, name, where each came from, what it does, and its settings with their defaults.
Kinds: reward, judge, dataset, optimizer, rollout, tracker.

new    writes NAME.py, which works as it is, test_NAME.py, and three rows where they make sense; replaces nothing.
check  asks the plugin for all that its contract promises, a line each, in a process of its own: one that hangs, exits
       or prints without end costs a message. No model; torch only for optimizers and rollout engines. Exit code 0
       when every promise is kept, 2 otherwise. A reward that asks for columns: --data FILE with rows that have them.
try    prints what a reward gives for the answers of a data file (--data, any format of docs/data.md), or for some of
       the kit's own. --run RUN takes the answers that a run kept: old scores against new ones, and a page of both.

Reads: installed plugins, the files that are named, data, samples/ of a run.
Writes: new its files; try --run RUN the page RUN/replay-REWARD.html; else nothing.

Examples:
  rlhf-lora plugins reward plugins=[my_reward.py] --json
  rlhf-lora plugins new reward brevity --to rewards
  rlhf-lora plugins check my_reward.py
  rlhf-lora plugins check length reward.target=7 --json
  rlhf-lora plugins try plugins=[my_reward.py] reward=my_reward --data pairs.jsonl -n 5
  rlhf-lora plugins try reward=length reward.target=20 --run runs/mine
"""

ENV = """\
rlhf-lora env [--json] [--gpu]

Prints what a bug report needs: versions, platform, threads, cache folder and its size, plugins and which failed to
import. No secrets, no user name: paste it as it is. --gpu loads torch to say which cards it sees.

Examples:
  rlhf-lora env
  rlhf-lora env --json
"""

COMPLETION = """\
rlhf-lora completion SHELL

Prints the script that completes verbs, flags, groups with their choices (reward=, model=, your own presets of
--config-dir) and settings (optimizer.beta=) at the press of a key. Shells: bash, zsh, fish.

Reads and writes: a small list of names in the cache folder, made anew when a plugin is installed. Plugin files named in
plugins=[…] are read and not run.

To install, one line:
  bash   echo 'eval "$(rlhf-lora completion bash)"' >> ~/.bashrc
  zsh    echo 'eval "$(rlhf-lora completion zsh)"' >> ~/.zshrc
  fish   rlhf-lora completion fish > ~/.config/fish/completions/rlhf-lora.fish

Examples:
  rlhf-lora completion bash
  rlhf-lora completion zsh
"""

HELP = {
    "train": TRAIN,
    "plan": PLAN,
    "evaluate": EVALUATE,
    "chat": CHAT,
    "verify": VERIFY,
    "report": REPORT,
    "plugins": PLUGINS,
    "env": ENV,
    "completion": COMPLETION,
}
