# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# (sec-learning-not-to-learn)=
# # Learning Not to Learn: unlearning the colour of digits
#
# **The claim.** A network that is trained on digits whose colour gives them away learns colours, and fails when the colours stop telling the truth. {cite:t}`kim2019learning` train the features against a second network that tries to read the colour from them. With the least varied colours of their Colored MNIST this lifts accuracy on unbiased digits from .41 to .82, they report; a reproduction, {cite:t}`lntlreproduction`, adds a ramp to the adversary's strength and reports .84.
#
# **What you will be able to do** after this chapter: write the method's two-player game from its equations; train it without letting it collapse; and tell by a fresh probe whether a network has unlearned a bias or has only outlived a weak adversary.
#
# **How long it takes.** The reduced run, which is what this page shows, needs about four minutes on two cores from an empty store. The published schedule (`scale="full"`) is meant for a GPU. Everything called *ours* was computed by the run that made this page, but for two tables near its end, which read the records of two longer runs and say so. Everything called *printed* stands in the two documents and was not computed by us.

# %% tags=["remove-cell"]
# On Colab the library and the data come from the book's repository; elsewhere this cell does nothing.
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run(
        ["git", "clone", "--depth=1", "{{repository}}", "/content/book"], check=True
    )
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "-e", "/content/book"],
        check=True,
    )
    sys.path.insert(
        0, "/content/book/lib"
    )  # an editable install is seen only after a restart

# %% [markdown]
# ## Parameters
#
# `None` means *as the scale and the data set say*; the values that then hold are listed below the next cell.

# %% tags=["parameters"]
scale: str = "reduced"  # "reduced": minutes on two cores; "full": as published
dataset: str = None  # "mnist10k", embedded; or "mnist", all of it, from data_root
seeds: list = None  # every seed draws its own colours, weights and order
device: str = "auto"  # "auto", "cpu", "cuda"
data_root: str = None  # folder of full data sets; None: see "Run it again"
color_variances: list = None  # of the colour noise, on [0, 1]; small: strong bias
side: int = None  # 28, or 14: half the resolution, every pixel the mean of four
painting: str = None  # "flat": one colour a stroke; "multiply": grey times colour
width: int = None  # channels of the feature net; 32 as published
epochs: int = None  # passes over the training digits, for every row
batch_size: int = None  # images a step
optimizer: str = None  # "sgd", as published, or "adam"
learning_rate: float = None  # of the baseline and of Gray
game_learning_rate: float = None  # of f and g where they play against h
bias_learning_rate: float = None  # of h
bias_momentum: float = None  # of h: SGD's momentum or Adam's beta_1
decay_every: int = None  # epochs between divisions of the rates by ten; 0: never
gradient_clip: float = None  # largest norm of a step's gradient; 0: none
weight_average: float = None  # decay of the running mean that is judged; 0: none
start_from_baseline: bool = None  # whether games start from the baseline's weights
entropy_weight: float = None  # lambda
reversal_strength: float = None  # mu
confusion_weight: float = None  # alpha, of BlindEye
ramp: str = None  # "epoch" (the reproduction), "progress" (ten times that done), "none"
repaints: int = None  # how often each unbiased digit is painted anew for judging
probe_images: int = None  # images on which the fresh probes are trained

# %% tags=["nbval-check-output"]
from nuisance import study
from nuisance.experiments import learning_not_to_learn as lntl
from nuisance.experiments import learning_not_to_learn_settings as chapter

run = study.start(
    "01_learning_not_to_learn",
    globals(),
    defaults=chapter.DEFAULTS,
    limits=chapter.LIMITS,
)
p = run.parameters
run

# %% [markdown]
# ## The data
#
# Every digit has a mean colour. A training image draws its colour around the mean of its own digit, with the same variance $\sigma^2$ in each channel; an unbiased image draws it around the mean of *any* digit. So in training the colour all but names the digit, and in testing it says nothing. Beware of the words: $\sigma^2 = 0.02$ is a **variance** on the scale from 0 to 1, a standard deviation of 36 grey levels; whoever takes it for a standard deviation gets a far stronger bias and a different study.
#
# The ten official mean colours were published only as a picture, so ours are a third-party colouriser's. The run on this page uses 10,000 real handwritten digits; {numref}`fig-lntl-samples` shows them as the networks see them.

# %% tags=["nbval-check-output"]
import torch

from nuisance.data import colored_mnist

run.use_data(colored_mnist.fingerprint(p.dataset, p.data_root))
digits = colored_mnist.load_digits(p.dataset, p.data_root)
if p.side == 14:
    digits = {split: colored_mnist.halve(images) for split, images in digits.items()}
for split, images in digits.items():
    print(f"{split:10} {len(images):6,} digits of {p.side} x {p.side} pixels")


# %% tags=["hide-input"] mystnb={"image": {"alt": "Rows of coloured digits from zero to nine; in the training rows all images of a digit share a hue, in the unbiased rows the hues are mixed."}, "figure": {"name": "fig-lntl-samples", "caption": "Digits 0 to 9 as painted, for every variance of this run. In training the colour gives the digit away; in unbiased images it says nothing. Three images a digit."}}
import matplotlib.pyplot as plt

from nuisance import figures, seeding

figures.use_style()
by_digit = [torch.where(digits["train"].labels == digit)[0][:3] for digit in range(10)]
few = digits["train"][torch.stack(by_digit, 1).flatten()]
height = 1.35 * len(p.color_variances)
panels = plt.subplots(
    len(p.color_variances), 2, figsize=(figures.WIDTH, height), squeeze=False
)[1]
for variance, (left, right) in zip(sorted(p.color_variances), panels, strict=True):
    for axes, biased, name in ((left, True, "training"), (right, False, "unbiased")):
        colored = colored_mnist.with_colors(
            few, variance, biased=biased, generator=seeding.generator(0)
        )
        figures.image_grid(colored_mnist.paint(colored, p.painting).split(10), axes)
        axes.set_title(rf"{name}, $\sigma^2 = {variance}$")
plt.show()

# %% [markdown]
# ## The method
#
# Three networks: features $f$, a label net $g$ on $f$, and a bias net $h$ on $f$ that predicts, at every position of the feature map, into which of eight bins the red, the green and the blue fall. Let $b$ be those bins and $q = h(f(x))$ the prediction. The mutual information $I(b; f) = H(b) - H(b \mid f)$ is what the features tell of the colour. $H(b)$ cannot be changed, and with the posterior replaced by $q$ the other part gives two handles {cite:p}`kim2019learning`. The first is the **negative conditional entropy**,
#
# $$ \mathbb{E}_x \Big[ \sum_b q(b \mid f(x)) \log q(b \mid f(x)) \Big], $$ (eq-lntl-entropy)
#
# which $f$ lowers until $h$ is as unsure as can be. The second keeps $q$ close to the truth: $h$ descends its cross-entropy $\mathcal{L}_B$ while $f$ climbs it. Together, for strengths $\lambda$ and $\mu$,
#
# $$ f, g \ \text{minimise}\ \ \mathcal{L}_{CE}(y, g(f(x))) + \lambda\, \mathbb{E}_x \Big[ \sum_b q \log q \Big] - \mu\, r\, \mathcal{L}_B, \qquad h \ \text{minimises}\ \ \mathcal{L}_B . $$ (eq-lntl-game)
#
# The reproduction's change is the factor $r(\gamma) = 2 / (1 + e^{-\gamma}) - 1$, which lets the reversal grow from nothing; in the paper $r = 1$. The library writes each of these once; what follows is its own source.

# %%
from nuisance import losses
from nuisance.methods.mutual_information import UnlearnBias

study.source(
    losses.negative_conditional_entropy, losses.reversal_ramp, UnlearnBias.encoder_term
)

# %% [markdown]
# The sign of $\mathcal{L}_B$ differs between the players. A **gradient-reversal layer** between $f$ and $h$ does that in one backward pass: it is the identity forwards, and multiplies the gradient by $-\mu r$ backwards {cite:p}`ganin2015unsupervised`. The entropy term passes through $h$ too, but must not move it, so the simultaneous update of the paper's text takes each player's gradient apart:

# %%
from nuisance.methods.bias_game import BiasGame

study.source(BiasGame.update)

# %% [markdown]
# The authors' released code does it otherwise: two forward passes and two optimiser steps a batch, the first for cross-entropy and entropy, the second, on the features as they now are, for the game. It is here too, as the row *two passes*:

# %%
from nuisance.methods.mutual_information import UnlearnBiasTwoPass

study.source(UnlearnBiasTwoPass.update)

# %% [markdown]
# ## The experiment
#
# The rows of the printed table are: the **baseline** (cross-entropy alone); **BlindEye** {cite:p}`alvi2018turning`, in which $f$ minimises the cross-entropy of the uniform distribution and $q$ instead; **Gray**, the baseline on pictures without hue; **unlearning** with a fixed strength, the paper's; and unlearning with the **ramp**, the reproduction's. To these we add, for the strongest bias, the released order of **two passes**, and the **reversal alone** ($\lambda = 0$). All rows share the network, the number of epochs, the optimiser and the averaging of weights. (In the published schedule the games start from the trained baseline, in the reduced run afresh.) Each cell is trained once a seed, and a seed means the same colours and the same order of images in every row.

# %%
settings = {name: value for name, value in vars(p).items() if name in chapter.SETTINGS}
common = dict(
    dataset=p.dataset, data_root=str(p.data_root), device=p.device, settings=settings
)
strongest = min(p.color_variances)


def cells(rows, variances):
    """The cases of the experiment: every row with every variance and every seed."""
    return [
        dict(row=row, color_variance=variance, seed=seed, probe=variance == strongest)
        for row in rows
        for variance in variances
        for seed in p.seeds
    ]


alone = cells(["baseline", "gray"], p.color_variances)
outcomes = run.parts(lntl.experiment, [case | common for case in alone])

# %%
games = cells(["blindeye", "unlearn", "unlearn_ramped"], p.color_variances)
games += cells(["unlearn_two_pass", "reversal_only"], [strongest])
starts = {(case["color_variance"], case["seed"]): None for case in alone}
if p.start_from_baseline:  # the published schedule; otherwise f and g start afresh
    starts |= {
        (case["color_variance"], case["seed"]): outcome["weights"]
        for case, outcome in zip(alone, outcomes, strict=True)
        if case["row"] == "baseline"
    }
outcomes += run.parts(
    lntl.experiment,
    [
        case | common | {"initial": starts[case["color_variance"], case["seed"]]}
        for case in games
    ],
)

# %% [markdown]
# From here on nothing is trained: all that follows reads the outcomes. `over_seeds` gives the mean of a measure over seeds with Student's 95 % interval; `difference` does so for two rows, **seed by seed**.

# %%
from nuisance.metrics.intervals import Condition, mean_interval

found = {
    (case["row"], case["color_variance"], case["seed"]): outcome
    for case, outcome in zip(alone + games, outcomes, strict=True)
}


def values(measure, row, variance=strongest):
    """A measure of one cell, a value a seed."""
    return [found[row, variance, seed][measure] for seed in p.seeds]


def over_seeds(measure, row, variance=strongest):
    """Mean of a measure over the seeds, with its interval."""
    return mean_interval(values(measure, row, variance))


def difference(measure, row, other, variance=strongest):
    """Mean of row minus other, paired by seed, with its interval."""
    pairs = zip(
        values(measure, row, variance), values(measure, other, variance), strict=True
    )
    return mean_interval([one - two for one, two in pairs])


# %% [markdown]
# ## Accuracy on unbiased digits
#
# {numref}`fig-lntl-accuracy` redraws the study's figure 3, ours beside the printed curves. Before you compare the heights: ours come from fewer digits, a narrower network, fewer steps, other mean colours and a flat stroke. What can be compared is the order of the rows.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels of accuracy against colour variance, ours with error bars and the printed curves, one line for each of the five rows."}, "figure": {"name": "fig-lntl-accuracy", "caption": "Accuracy on unbiased test digits against the variance of the colour. Left: this run, mean over its seeds with 95 % intervals (dodged sideways for legibility, cut off at 0 and 1). Right: as printed, one run each."}}
from nuisance import published as printed_numbers

PRINTED_ROWS = list(lntl.ROWS)[:5]
panels = plt.subplots(1, 2, figsize=(figures.WIDTH, 3.6), sharey=True)[1]
printed = printed_numbers.table("learning_not_to_learn")
marks = zip(PRINTED_ROWS, "osD^v", figures.PALETTE, strict=False)
for number, (row, mark, color) in enumerate(marks):
    means = [over_seeds("accuracy", row, variance) for variance in p.color_variances]
    heights = [interval.value for interval in means]
    spread = [
        interval.high - interval.value if len(p.seeds) > 1 else 0 for interval in means
    ]
    places = [variance + 0.0004 * (number - 2) for variance in p.color_variances]
    look = dict(marker=mark, color=color, markersize=5, label=lntl.ROWS[row])
    panels[0].errorbar(places, heights, yerr=spread, capsize=2, **look)
    theirs = printed[printed.method == row]
    panels[1].plot(theirs.color_variance, theirs.value, **look)
panels[0].set(
    xlabel=r"colour variance $\sigma^2$",
    ylabel="accuracy, unbiased test",
    ylim=(0, 1),
    title="ours",
)
panels[1].set(xlabel=r"colour variance $\sigma^2$", title="printed")
_ = panels[1].legend(loc="lower right", fontsize="small")
plt.show()

# %%
import pandas as pd

table = [
    study.row(
        row,
        variance,
        "accuracy",
        over_seeds("accuracy", row, variance),
        printed_numbers.value(
            "learning_not_to_learn", method=row, color_variance=variance
        ),
    )
    for row, variance in dict.fromkeys(
        (case["row"], case["color_variance"]) for case in alone + games
    )
]
run.table("Accuracy on unbiased test digits", table)
shown = pd.DataFrame(table).assign(method=lambda rows: rows.method.map(lntl.ROWS))
shown.columns = ["row", "variance", "metric", "ours", "low", "high", "printed"]
figures.number_table(shown.drop(columns="metric").set_index(["row", "variance"]))

# %% [markdown]
# {numref}`fig-lntl-confusion` shows what the accuracy is made of. A network that reads colours answers, for a digit painted in the colour of another, with that other digit: errors spread over each row by colour, not by likeness. A network that reads strokes errs where strokes are alike.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two confusion matrices of ten by ten with a strip of the ten mean colours above the columns; the baseline's is spread out, the unlearned network's is concentrated on the diagonal."}, "figure": {"name": "fig-lntl-confusion", "caption": "Unbiased test digits by true digit and answer, shares of each row, all seeds together, with the strongest bias of this run. The strip shows the mean colour of the digit that each column answers with."}}
import numpy as np
import seaborn as sns

shares = {}
for row in ("baseline", "unlearn_ramped"):
    counts = np.sum(values("confusion", row), axis=0)
    shares[row] = counts / counts.sum(1, keepdims=True)
layout = dict(height_ratios=[1, 14], hspace=0.02)
panels = plt.subplots(2, 2, figsize=(figures.WIDTH, 4.1), gridspec_kw=layout)[1]
for (strip, axes), (row, share) in zip(panels.T, shares.items(), strict=True):
    strip.imshow(colored_mnist.MEAN_COLORS[None], aspect="auto")
    strip.set(xticks=[], yticks=[], title=lntl.ROWS[row])
    labels = np.where(share >= 0.05, np.char.mod("%.1f", share), "")
    sns.heatmap(
        share,
        vmin=0,
        vmax=1,
        cmap="Blues",
        annot=labels,
        fmt="",
        ax=axes,
        cbar=False,
        annot_kws={"size": 7},
    )
    axes.set(xlabel="answer", ylabel="true digit")
    axes.tick_params(length=0, rotation=0)
plt.show()

# %% [markdown]
# ## Is the bias unlearned, or is the bias net just badly trained?
#
# The papers argue from the game itself: $h$ can no longer predict the colour, so the features no longer tell it. {numref}`fig-lntl-game` shows $h$ over training, beside what the frequencies of the bins alone would give (dotted). It ends near them. But an adversary that is trained against a moving target may also be near chance because it is *lost*. Its word is not enough.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels of lines over epochs, one for the accuracy of the bias net and one for the entropy of its predictions, a line for each game."}, "figure": {"name": "fig-lntl-game", "caption": "The bias net over training with the strongest bias of this run: share of positions whose bin it names, with the accuracy of always naming the most frequent bin (dotted), and mean entropy of its predictions (at most 3 bits, for 8 bins). Lines are means over seeds, bands their range."}}
panels = plt.subplots(1, 2, figsize=(figures.WIDTH, 3.1))[1]
players = ["blindeye", "unlearn", "unlearn_ramped", "unlearn_two_pass", "reversal_only"]
for axes, measure, unit in (
    (panels[0], "bias_accuracy", 1),
    (panels[1], "bias_entropy", np.log(2)),
):
    for row, color in zip(players, (1, 3, 4, 5, 6), strict=True):
        runs = [history[measure] for history in values("history", row)]
        look = dict(color=figures.PALETTE[color], label=lntl.ROWS[row])
        figures.mean_and_range(axes, np.array(runs) / unit, **look)
panels[0].axhline(
    over_seeds("position_chance", "baseline").value,
    color="black",
    linestyle=":",
    linewidth=1,
)
panels[0].set(xlabel="epoch", ylabel="accuracy of h", ylim=(0, None))
panels[1].set(xlabel="epoch", ylabel="entropy of h, bits", ylim=(0, 3.1))
figure = panels[0].figure
_ = figure.legend(
    *panels[0].get_legend_handles_labels(),
    loc="outside lower center",
    ncol=3,
    fontsize="small",
)
plt.show()

# %% [markdown]
# So we freeze $f$ and train **fresh probes**, after the fact and without an adversary:
#
# - the **position probe** has the architecture of $h$ and $h$'s own task, on the biased images. If it does better than $h$ did, then $h$ was badly trained. (On biased images a probe may also guess the colour from the digit.)
# - the **image probe** has the architecture of $g$ and sees the whole feature map, as $g$ does. It names which of the ten mean colours an *unbiased* image has, so that knowing the digit is no help.
#
# The held-out cross-entropy of a probe bounds the mutual information from below, $I(b; f) \ge H(b) - \mathrm{CE}$, which gives the bits in {numref}`fig-lntl-probes`.

# %%
PROBED = list(lntl.ROWS)
probes = []
for row in PROBED:
    for measure, what in (
        ("color_bits", "image probe, bits"),
        ("color_accuracy", "image probe, accuracy"),
        ("color_share", "variance that the colour explains"),
        ("position_bits", "position probe, bits a channel"),
        ("position_accuracy", "position probe, accuracy"),
        ("position_chance", "most frequent bin, accuracy"),
    ):
        probes.append(study.row(row, strongest, what, over_seeds(measure, row)))
    if row in players:
        own = over_seeds("bias_net_accuracy", row)
        probes.append(study.row(row, strongest, "the game's own h, accuracy", own))
run.table("What frozen features tell of the colour", probes)
measured = (
    pd.DataFrame(probes)
    .pivot(index="method", columns="metric", values="value")
    .loc[PROBED]
)
figures.number_table(
    measured.rename(index=lntl.ROWS).rename_axis(index=None, columns=None), 2
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: bars of the image probe's bits for every row. Right: accuracy on unbiased digits against the image probe's bits, one mark a seed, falling from left to right."}, "figure": {"name": "fig-lntl-probes", "caption": "Left: what a fresh image probe finds of the colour in the frozen features (bits, mean over seeds with 95 % intervals; at most log2(10) = 3.32). Right: accuracy on unbiased digits against those bits, a mark a seed, in the colours of the bars. Strongest bias of this run."}}
panels = plt.subplots(1, 2, figsize=(figures.WIDTH, 3.6), width_ratios=[1.1, 1])[1]
for number, row in enumerate(PROBED):
    interval, color = over_seeds("color_bits", row), figures.PALETTE[number]
    reach = interval.high - interval.value if len(p.seeds) > 1 else 0
    panels[0].barh(
        number, interval.value, xerr=reach, color=color, alpha=0.7, capsize=2
    )
    panels[1].plot(
        values("color_bits", row),
        values("accuracy", row),
        "o",
        color=color,
        markersize=5,
    )
panels[0].set_yticks(
    range(len(PROBED)), [lntl.ROWS[row] for row in PROBED], fontsize="small"
)
panels[0].invert_yaxis()
panels[0].set(xlabel="image probe, bits", xlim=(min(0, panels[0].get_xlim()[0]), None))
panels[0].axvline(0, color="black", linewidth=0.8)
panels[1].set(xlabel="image probe, bits", ylabel="accuracy, unbiased test", ylim=(0, 1))
plt.show()

# %% [markdown]
# The probe itself can be lost, too, and then it flatters the method. {numref}`fig-lntl-curves` trains the image probe longer and longer on frozen features, with and without a batch norm in front; the baseline's features are the control. An adversary that pushes $f$ to hide the colour need not remove it: making it *small* beside everything else that the features vary in is enough to slow a net that looks for it. How small, the table above says: the share of the features' variance (averaged over positions) that the ten mean colours explain. All bits in this chapter come from probes with the batch norm; since each is a lower bound, a curve that still rises says that there is more to find.

# %%
looks = [
    dict(row=row, normalised=normalised, seed=seed)
    for row in ("unlearn_ramped", "baseline")
    for normalised in (True, False)
    for seed in p.seeds
]
cases = [
    dict(
        seed=look["seed"],
        normalised=look["normalised"],
        color_variance=strongest,
        epochs=12,
        **common,
    )
    | {"weights": found[look["row"], strongest, look["seed"]]["weights"]}
    for look in looks
]
curves = np.array(run.parts(lntl.color_probe_curve, cases)).reshape(
    2, 2, len(p.seeds), 12
)

# %% tags=["hide-input", "picture"] mystnb={"image": {"alt": "Bits found by the image probe against the probe's epochs, four lines: features of ramped unlearning and of the baseline, each with a batch norm in front of the probe and without."}, "figure": {"name": "fig-lntl-curves", "caption": "What an image probe finds of the colour in frozen features, by the length of its own training, with a batch norm in front and without: features of ramped unlearning and, as a control, of the baseline. Lines are means over seeds, bands their range. Strongest bias of this run."}}
axes = plt.subplots(figsize=(0.7 * figures.WIDTH, 3.4))[1]
for row, number, of_row in zip(
    ("unlearning, ramped", "baseline"), (4, 0), curves, strict=True
):
    for kind, line, bits in zip(
        ("batch norm first", "plain"), ("-", "--"), of_row, strict=True
    ):
        look = dict(
            color=figures.PALETTE[number], linestyle=line, label=f"{row}; {kind}"
        )
        figures.mean_and_range(axes, bits, **look)
axes.set(
    xlabel="epochs of the probe",
    ylabel="image probe, bits",
    ylim=(min(0, curves.min()), None),
)
_ = axes.figure.legend(loc="outside lower center", ncol=2, fontsize="small")
plt.show()

# %% [markdown]
# ## The claims
#
# Each claim of the study is tested as a statement about means over seeds. It *holds* if the whole 95 % interval satisfies it, *fails* if none of it does, and is *inconclusive* otherwise. The interval is over seeds (weights, colours, order), not over test digits, which all rows share. *Unlearning* without a further word is the ramped form, which this book follows. {cite:t}`kim2019learning` state none of these with an interval.

# %%
from itertools import pairwise

ours, least = "unlearn_ramped", 0.3 if p.scale == "full" else 0.1
ordered = sorted(p.color_variances)
rises = []
for one, two in pairwise(ordered):
    rise = np.subtract(
        values("accuracy", "baseline", two), values("accuracy", "baseline", one)
    )
    rises.append(
        Condition(f"rise from {one} to {two}", mean_interval(list(rise)), at_least=0)
    )
low = Condition(
    f"accuracy at {strongest}", over_seeds("accuracy", "baseline"), at_most=0.5
)
statement = f"The baseline's accuracy rises with the variance, and is at most .5 at {strongest}."
_ = run.claim("C3.1", statement, [*rises, low])

# %%
won = Condition(
    "unlearning - baseline", difference("accuracy", ours, "baseline"), at_least=least
)
run.claim(
    "C3.2",
    f"At variance {strongest}, unlearning beats the baseline by {100 * least:.0f} points.",
    [won],
)
won = Condition(
    "fixed strength - baseline",
    difference("accuracy", "unlearn", "baseline"),
    at_least=least,
)
_ = run.claim(
    "C3.2-fixed", "The same with the fixed strength of the paper's row.", [won]
)

# %%
order = [
    Condition(
        f"{one} - {two} at {variance}",
        difference("accuracy", one, two, variance),
        at_least=0,
    )
    for variance in ordered
    for one, two in ((ours, "blindeye"), ("blindeye", "baseline"))
]
_ = run.claim(
    "C3.3",
    "Unlearning beats BlindEye and BlindEye the baseline, at every variance.",
    order,
)

# %%
near = [
    Condition(
        f"unlearning - Gray at {v}",
        difference("accuracy", ours, "gray", v),
        at_least=-0.03,
        at_most=0.03,
    )
    for v in ordered
]
run.claim("C3.4", "Unlearning is within 3 points of Gray, at every variance.", near)
helps = []
for variance in ordered:
    bound = {"at_least": 0} if variance <= 0.035 else {"at_most": 0}
    gap = difference("accuracy", ours, "unlearn", variance)
    helps.append(Condition(f"ramp - fixed at {variance}", gap, **bound))
_ = run.claim(
    "C3.5", "The ramp helps up to a variance of .035 and hurts from .04 on.", helps
)

# %%
less = [
    Condition(
        f"{what} probe, unlearning - baseline",
        difference(measure, ours, "baseline"),
        at_most=0,
    )
    for what, measure in (
        ("image", "color_accuracy"),
        ("position", "position_accuracy"),
    )
]
_ = run.claim(
    "C3.6", "A fresh colour probe on frozen features does worse after unlearning.", less
)

# %%
alone_gain, full_gain = (
    np.subtract(values("accuracy", row), values("accuracy", "baseline"))
    for row in ("reversal_only", ours)
)
most = mean_interval(list(alone_gain - 0.5 * full_gain))
kept = [
    Condition("gain of reversal alone - half the gain of unlearning", most, at_least=0)
]
_ = run.claim(
    "C3.7",
    "The reversal alone (lambda = 0) keeps more than half of unlearning's gain.",
    kept,
)

# %%
pd.set_option("display.max_colwidth", None)
pd.DataFrame(run.claims).set_index("id").rename_axis(None)

# %%
for claim in run.claims:
    print(claim["id"], claim["verdict"])

# %% tags=["hide-input"]
run.record(
    baseline_accuracy=over_seeds("accuracy", "baseline").value,
    gray_accuracy=over_seeds("accuracy", "gray").value,
    blindeye_accuracy=over_seeds("accuracy", "blindeye").value,
    fixed_accuracy=over_seeds("accuracy", "unlearn").value,
    ramped_accuracy=over_seeds("accuracy", "unlearn_ramped").value,
    two_pass_accuracy=over_seeds("accuracy", "unlearn_two_pass").value,
    reversal_only_accuracy=over_seeds("accuracy", "reversal_only").value,
    fixed_lowest=min(values("accuracy", "unlearn")),
    fixed_highest=max(values("accuracy", "unlearn")),
    baseline_bits=over_seeds("color_bits", "baseline").value,
    ramped_bits=over_seeds("color_bits", "unlearn_ramped").value,
    ramped_biased_accuracy=over_seeds("biased_accuracy", "unlearn_ramped").value,
    plain_first_bits=curves[0, 1, :, 0].mean(),
    plain_last_bits=curves[0, 1, :, -1].mean(),
    plain_first_bits_baseline=curves[1, 1, :, 0].mean(),
    plain_last_bits_baseline=curves[1, 1, :, -1].mean(),
    baseline_share=over_seeds("color_share", "baseline").value,
    ramped_share=over_seeds("color_share", "unlearn_ramped").value,
    ramped_h_accuracy=over_seeds("bias_net_accuracy", "unlearn_ramped").value,
    ramped_position_accuracy=over_seeds("position_accuracy", "unlearn_ramped").value,
    baseline_position_accuracy=over_seeds("position_accuracy", "baseline").value,
    position_chance=over_seeds("position_chance", "baseline").value,
    baseline_biased_accuracy=over_seeds("biased_accuracy", "baseline").value,
)
_ = run.finish()

# %% [markdown]
# ### What the verdicts say
#
# With the strongest bias the baseline is right on {glue:text}`baseline_accuracy:.1%` of unbiased digits, BlindEye on {glue:text}`blindeye_accuracy:.1%`, Gray on {glue:text}`gray_accuracy:.1%`, and ramped unlearning on {glue:text}`ramped_accuracy:.1%`. So unlearning shows at this scale (C3.2: {glue:text}`C3.2_verdict:s`), with baseline, BlindEye and ramped unlearning in the printed order, and with this bias it is about as good as taking the hue away altogether. Gray is no ceiling: the mean colours differ in luminance too, so a gray picture still tells a part of the bias.
#
# **With a fixed strength it is a gamble.** The same strength without the ramp gives {glue:text}`fixed_lowest:.1%` with one seed and {glue:text}`fixed_highest:.1%` with another (C3.2-fixed: {glue:text}`C3.2-fixed_verdict:s`). Others have reported such instability of the released method; a single run proves little either way. Whether the ramp *hurts* with mild bias, as the two printed rows would have it, three seeds do not tell (C3.5: {glue:text}`C3.5_verdict:s`).
#
# **Was $h$ just badly trained? Hardly, and yet the colour is still there.** Always naming the most frequent bin is right {glue:text}`position_chance:.1%` of the time, $h$ at the end {glue:text}`ramped_h_accuracy:.1%`, a fresh net in its place {glue:text}`ramped_position_accuracy:.1%`; on the baseline's features it is {glue:text}`baseline_position_accuracy:.1%`. At its own task, then, $h$ was nearly as good as its kind can be, and the paper's claim holds as far as it goes (C3.6: {glue:text}`C3.6_verdict:s`). But a probe that sees the whole image, as $g$ does, finds {glue:text}`ramped_bits:.2f` bits of colour, of {glue:text}`baseline_bits:.2f` in the baseline's features. The mean colour still explains {glue:text}`ramped_share:.1%` of the features' variance (baseline: {glue:text}`baseline_share:.1%`), and without a batch norm the probe finds {glue:text}`plain_first_bits:.2f` bits in its first epoch but {glue:text}`plain_last_bits:.2f` in its twelfth, where the baseline's features give {glue:text}`plain_first_bits_baseline:.2f` at once. **A good part of the colour was made small, not unlearned**, and $g$ has had longer than any probe to find it: on test digits that wear their training colours it is right {glue:text}`ramped_biased_accuracy:.1%` of the time.
#
# **Reversal and entropy need each other.** The released strengths ($\lambda = 0.01$ on a term of at most $\ln 8$) leave nearly all to the reversal. At ours the reversal alone reaches {glue:text}`reversal_only_accuracy:.1%`, about half the gain (C3.7: {glue:text}`C3.7_verdict:s`), and the table below has entropy alone at about as much on validation digits. A reason may be that the cross-entropy of a fooled $h$ has no upper end, so that the reversal rewards *misleading* $h$, while the entropy is bounded and at its best when $h$ is told nothing; we have not tested it.

# %% [markdown]
# ## How the settings were chosen
#
# At first unlearning did not show. What follows was tried on **unbiased validation digits**, with seeds that the results above do not use; the test digits had no part in it. Note that unbiased validation data are a luxury that the method is meant for doing without; neither document says how it chose. Each line names what differs from the settings above. The table is the record of another run, `benchmarks/search_learning_not_to_learn.py`.

# %% tags=["hide-input"]
search = study.load_record("01_learning_not_to_learn", "search")


def tried(title):
    """A table of the search, as the page shows it."""
    rows = pd.DataFrame(search["tables"][title]).drop(columns=["metric", "printed"])
    rows["method"] = rows["method"].map(lntl.ROWS)
    rows.columns = ["row", "changed", "accuracy", "low", "high"]
    return figures.number_table(rows.set_index(["row", "changed"]))


tried("Validation accuracy by setting")

# %% [markdown]
# Plain SGD at the published strengths stays near the baseline; with a stronger reversal it collapses to chance. The means move most with a bias net of **short memory** (Adam's $\beta_1 = 0.5$ in place of $0.9$; the opponent moves, and old gradients may mislead), with **both terms** at strengths between too little and too much, and with the **length of training**: twice the epochs are worse. (The game need not converge; perhaps what $f$ learns with time is to hide.) They move little with the kind of ramp, the averaging of weights, clipping, and the bias net's learning rate. With three seeds many of these intervals overlap: the table says which settings were taken and why, not which are best. Multiplied paint needs settings of its own; with these the game collapses.
#
# ## On all of MNIST
#
# The same rows on the 60,000 digits of MNIST itself: 55,000 to train, 5,000 to validate, the official 10,000 test digits to report. Again this is another run's record, of this chapter with `dataset="mnist"`. It is still the small network and a short training, not the published schedule, and deliberately so: on validation digits (first table) more epochs make it worse here too.

# %% tags=["hide-input"]
tried("Validation accuracy by setting, all of MNIST")

# %% tags=["hide-input"]
large = study.load_record("01_learning_not_to_learn@mnist")
shown = ("epochs", "batch_size", "side", "width", "optimizer")
print(
    ", ".join(f"{name} {large['parameters'][name]}" for name in shown),
    f"seeds {large['seeds']}",
    sep=", ",
)
rows = pd.DataFrame(large["tables"]["Accuracy on unbiased test digits"]).drop(
    columns="metric"
)
rows["method"] = rows["method"].map(lntl.ROWS)
rows.columns = ["row", "variance", "ours", "low", "high", "printed"]
figures.number_table(rows.set_index(["row", "variance"]))

# %% tags=["hide-input"]
pd.DataFrame(large["claims"]).set_index("id").rename_axis(None)

# %% [markdown]
# The widest interval is ramped unlearning at the strongest bias: there a seed collapsed, with the ramp. So the settings that carried the small run are not safe on the large one, and three seeds leave most of the claims open. That is a result too: the method as published gives a number; whether it gives that number *again* is a question of its own.

# %% [markdown]
# ## What the studies left open, and where text and code disagree
#
# - **Variance or deviation.** The text says variance, the code takes its root, and so do we. The last column of the reproduction's table is headed 0.5; its text makes clear that 0.05 is meant.
# - **The mean colours** were never published as numbers. With ours, the nearest pairs (1 and 3, 2 and 8) are closer than two standard deviations of the noise, which no accuracy is independent of.
# - **How a digit is painted** is not said. Flat strokes tell the colour alike at every position; multiplied by the grey level, edges fall into lower bins, and the bins then tell of strokes as well.
# - **One pass or two.** The text is a simultaneous game; the released code alternates, and its optimiser of $f$ and $g$ steps twice. Both are here, and at our scale end up at {glue:text}`ramped_accuracy:.1%` and {glue:text}`two_pass_accuracy:.1%`.
# - **The ramp** counts epochs, so that of a hundred it is over after five. Whether it multiplies or replaces the fixed 0.1 is not said; here it multiplies.
# - **One run each.** Neither document gives seeds or intervals, and others could not repeat .8185.
#
# ## Summary
#
# - Unlearning is a game: $h$ predicts the bias from the features, $f$ makes it fail, by entropy and by reversal.
# - It shows at reduced scale with a bias net of short memory, both terms, and a ramp; with a fixed strength it is a gamble on the seed, and on all of MNIST a seed collapsed even with the ramp.
# - A bias net near chance proves nothing. Freeze the features, train a fresh and *normalised* probe that sees what the classifier sees, and train it long enough.
# - By that measure the colour is reduced, not unlearned.
#
# ## Exercises
#
# 1. Find settings with which the game does not collapse for `painting="multiply"`. What do the bins tell of the stroke then?
# 2. The adversary is fooled by small scales. Put a batch norm in front of `BiasNet` and run the ramped row again. Does the image probe find less? Does accuracy rise?
# 3. $h$ answers at every position, the image probe once for the whole image. Write a bias net that pools before it answers, and play the game against it.
#
# ```{dropdown} Hints
# 1\. Pass the parameter with papermill, see [how to run it again](../book/rerun.md). In multiplied paint the bin of an edge pixel depends on the grey level, which belongs to the stroke and not to the bias.
#
# 2\. In `lib/nuisance/models/colored_mnist.py`, a first layer `nn.BatchNorm2d(width)`. The store notices the change and computes anew what depends on it.
#
# 3\. The labels are then one bin a channel and image: take the most frequent bin that is not background.
# ```
