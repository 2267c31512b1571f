"""Runs the study of docs/study.md and writes its tables, plot and sample grids: `python docs/study.py [--jobs 2]`.

Every run is one of configs/study/*.toml with a few keys set otherwise; those whose folder exists are not run again.
`--parts` carries out some of it, and leaves the rest of the page as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean, geometric_mean, stdev

from experiments import Experiment, arguments, distillkit, scores_in, side_by_side, slug, write_blocks
from matplotlib import colormaps
from matplotlib.figure import Figure

DOCS = Path(__file__).parent
CONFIGS = DOCS.parent / "configs" / "study"
TEACHER = DOCS.parent / "plugins" / "distillkit_fashion" / "teacher"
SEEDS = (0, 1, 2)
RATES_SEED = 100
"""Learning rates are chosen on a seed of their own."""
STEPS = (1, 2, 4, 8)

METHODS = {
    "dsdn": "DSDN",
    "dsdi": "DSDI",
    "dsdgl": "DSDGL",
    "dsdgexp": "DSDGEXP",
    "dsd-anchored": "DSD, anchored",
    "tsd": "TSD",
    "pd": "PD",
    "luhman": "Luhman & Luhman",
    "consistency": "consistency",
    "matching": "trajectory matching",
    "chain": "chain: DSD, anchored; then consistency",
}
"""Config -> the method's name in tables."""

UNDISTILLED = {
    "leading": ["--set", "grid.spacing=leading"],
    "trailing": ["--set", "grid.spacing=trailing"],
    "DPM-Solver++(2M), Karras sigmas": ["--set", "grid.spacing=trailing", "--solver", "dpmsolver++-karras"],
}
"""How the undistilled teacher is sampled; with DDIM on the first two grids."""

REFERENCE = "dsdi"
"""What the equal budgets are: this config's updates, evaluations and seconds."""

RATES = {
    "dsdn": ("1e-6", "3e-6", "1e-5", "3e-5"),
    "dsdi": ("3e-6", "1e-5", "3e-5"),
    "dsdgl": ("3e-6", "1e-5", "3e-5"),
    "dsdgexp": ("1e-5", "3e-5"),
    "dsd-anchored": ("1e-4", "3e-4", "1e-3"),
    "tsd": ("3e-5", "1e-4", "3e-4", "1e-3"),
    "pd": ("3e-5", "1e-4", "3e-4", "1e-3"),
    "luhman": ("1e-4", "3e-4"),
    "consistency": ("3e-5", "1e-4", "3e-4", "1e-3"),
    "matching": ("3e-5", "1e-4", "3e-4", "1e-3"),
}

Variants = dict[str, Sequence[str]]
OTHER_SEEDS = {"moments": (200, 201)}
"""Ablations with seeds of their own, which are used for nothing else."""
ABLATIONS: dict[str, tuple[str, Variants]] = {
    "anchored": (
        "dsd-anchored",
        {
            "as it is": [],
            "form last": ["target.form=last"],
            "weighting none": ["loss[0].weighting=none"],
            "weighting snr-plus-one": ["loss[0].weighting=snr-plus-one"],
            "weighting snr": ["loss[0].weighting=snr"],
            "weighting min-snr": ["loss[0].weighting=min-snr"],
            "weighting log-truncated": ["loss[0].weighting=log-truncated"],
            "spacing leading": ["grid.spacing=leading"],
            "spacing linspace": ["grid.spacing=linspace"],
            "staggered": ["source.staggered=true"],
            "batch 1, 16 times the updates": [
                "source.batch=1",
                "run.updates=1920",
                # A sixteenth of the rate, and averages that are as slow when samples are counted.
                "optimizer.learning_rate=2e-5",
                "optimizer.final_learning_rate=2e-6",
                "teacher.decay=0.999875",
                "ema.decay=0.9968",
            ],
            "student's average 0": ["ema.decay=0"],
            "teacher's average 0.999": ["teacher.decay=0.999"],
        },
    ),
    "dsdi": (
        "dsdi",
        {
            "as it is": [],
            "form last": ["target.form=last"],
            "weighting none": ["loss[0].weighting=none"],
        },
    ),
    "moments": (
        "tsd",
        {"kept over the run": [], "anew in each stage": ["optimizer.moments=stage"]},
    ),
    "guidance": (
        "dsd-anchored",
        {
            "none": ["evaluation.guidance=2"],
            "fixed at 2": ["evaluation.guidance=2", "source.guidance=2"],
            "sampled from [1, 3]": ["evaluation.guidance=2", "source.guidance=[1, 3]"],
        },
    ),
}
"""Table -> config, and its rows: what is set otherwise."""

SHORT = ("run.updates=120", "evaluation.steps=[2, 4, 8]", "evaluation.samples=300", "evaluation.batch=100")
"""Ablations are half as long as the study's other runs, and scored with fewer samples."""


@dataclass(frozen=True)
class Study:
    """The runs, by what they are for.

    Attributes:
        top: the folder in which they lie.
    """

    top: Path

    def rates(self, method: str) -> dict[str, Experiment]:
        """Peak learning rate -> its run, on the seed that is kept for this."""
        return {
            rate: Experiment(
                CONFIGS / f"{method}.toml",
                (
                    f"run.seed={RATES_SEED}",
                    "evaluation.samples=200",
                    "evaluation.batch=100",
                    f"optimizer.learning_rate={rate}",
                    f"optimizer.final_learning_rate={float(rate) / 10:g}",
                ),
                self.top / "rates" / f"{method}-{rate}",
            )
            for rate in RATES.get(method, ())
        }

    def runs(self, method: str, factor: float = 1.0) -> list[Experiment]:
        """A method's runs, one for each seed, with `factor` times the updates of its config."""
        updates = self.updates(method, factor)
        name = "-".join(map(str, updates))
        if len(updates) == 1:
            sets = [f"run.updates={updates[0]}"]
        else:
            sets = [f"phase[{i}].run.updates={number}" for i, number in enumerate(updates)]
        return [
            Experiment(
                CONFIGS / f"{method}.toml",
                (f"run.seed={seed}", *sets),
                self.top / "methods" / f"{method}-{name}-{seed}",
            )
            for seed in SEEDS
        ]

    def variants(self, table: str) -> dict[str, list[Experiment]]:
        """An ablation's rows, one run for each seed."""
        config, rows = ABLATIONS[table]
        return {
            title: [
                Experiment(
                    CONFIGS / f"{config}.toml",
                    (f"run.seed={seed}", *SHORT, *settings),
                    self.top / table / f"{slug(title)}-{seed}",
                )
                for seed in OTHER_SEEDS.get(table, SEEDS)
            ]
            for title, settings in rows.items()
        }

    def updates(self, method: str, factor: float = 1.0) -> list[int]:
        """`factor` times the updates of each phase."""
        phases: dict[int, int] = {}
        for stage in self.plans[method]:
            phases[stage.get("phase", 1)] = phases.get(stage.get("phase", 1), 0) + stage["updates"]
        return [max(1, round(updates * factor)) for updates in phases.values()]

    @cached_property
    def plans(self) -> dict[str, list[dict[str, int]]]:
        """Each method's stages, from `distillkit plan`."""
        return {
            method: json.loads(distillkit(["plan", str(CONFIGS / f"{method}.toml"), "--json"]))["stages"]
            for method in METHODS
        }

    def evaluations(self, method: str) -> int:
        """What a method's config costs in network evaluations of one batch."""
        return sum(stage["evaluations"] for stage in self.plans[method])

    def seconds(self, method: str, factor: float = 1.0) -> float:
        """What a method's updates take, by `distillkit plan --measure`."""
        return factor * float(self.timing(method).read_text(encoding="utf-8"))

    def timing(self, method: str) -> Path:
        """The file with the seconds that the updates of a method's config take."""
        return self.top / "seconds" / method

    def measure(self, method: str) -> None:
        """Find them out, unless that was done. Nothing else should be at work meanwhile."""
        file = self.timing(method)
        if not file.is_file():
            found = json.loads(distillkit(["plan", str(CONFIGS / f"{method}.toml"), "--measure", "--json"]))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(str(found["measured"]["update_seconds"]), encoding="utf-8")

    def factors(self, budget: str) -> dict[str, float]:
        """Method -> by how much its updates are to be multiplied, to cost what the reference costs."""
        if budget == "updates":
            return dict.fromkeys(METHODS, 1.0)
        cost = self.evaluations if budget == "evaluations" else self.seconds
        factors = {method: cost(REFERENCE) / cost(method) for method in METHODS}
        # What differs by less than timings do is the same.
        return {method: 1.0 if abs(factor - 1) < 0.1 else factor for method, factor in factors.items()}


BUDGETS = ("updates", "evaluations", "seconds")


def teacher(top: Path, way: str, seed: int) -> Path:
    """The undistilled teacher's scores, of the noise of a seed."""
    return top / "teacher" / f"{slug(way)}-{seed}.json"


def score_teacher(file: Path, way: str, seed: int) -> None:
    """Score the undistilled teacher, unless that was done."""
    if file.is_file():
        return
    sets = ["evaluation.batch=125", f"evaluation.seed={seed}", "grid.start=999"]
    given = ["--features", "fashion", "--samples", "500", "--steps", ",".join(map(str, (*STEPS, 16)))]
    words = [word for setting in sets for word in ("--set", setting)]
    rows = json.loads(distillkit(["evaluate", str(TEACHER), *given, *words, *UNDISTILLED[way], "--json"]))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({row["steps"]: row["value"] for row in rows}), encoding="utf-8")


def undistilled(top: Path, way: str) -> list[dict[int, float]]:
    """The undistilled teacher's scores, one entry for each noise."""
    found = [json.loads(teacher(top, way, seed).read_text(encoding="utf-8")) for seed in SEEDS]
    return [{int(steps): value for steps, value in scores.items() if int(steps) in STEPS} for scores in found]


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    return f"{fmean(values):.1f} ± {stdev(values):.1f}"


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = [*head]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(found: Sequence[dict[int, float]], at: Sequence[int] = STEPS) -> list[str]:
    """Mean and spread at each number of steps."""
    return [spread([scores[steps] for scores in found]) for steps in at]


HEAD = ["1 step", *(f"{steps} steps" for steps in STEPS[1:])]


def budget_table(study: Study, budget: str) -> str:
    """One row a method: what it cost, and its scores."""
    rows = [[f"undistilled, {way}", "", "", "", *cells(undistilled(study.top, way))] for way in UNDISTILLED]
    for method, factor in study.factors(budget).items():
        runs = study.runs(method, factor)
        updates = " + ".join(map(str, study.updates(method, factor)))
        evaluations = sum(line["evaluations"] for line in runs[0].journal())
        cost = [updates, str(evaluations), f"{study.seconds(method, factor):.0f}"]
        rows.append([METHODS[method], *cost, *cells([run.scores() for run in runs])])
    return markdown(["", "updates", "evaluations", "seconds", *HEAD], rows)


def rates_table(study: Study) -> str:
    """What each learning rate led to, on the seed that is kept for this."""
    rows = []
    for method in METHODS:
        means = {rate: geometric_mean(run.scores().values()) for rate, run in study.rates(method).items()}
        best = min(means, key=lambda rate: means[rate], default=None)
        for rate, run in study.rates(method).items():
            shown = [f"{value:.1f}" for value in (*run.scores().values(), means[rate])]
            rows.append([METHODS[method], f"**{rate}**" if rate == best else rate, *shown])
    return markdown(["", "learning rate", *HEAD, "geometric mean"], rows)


def orderings_table(study: Study) -> str:
    """The paper's claims, as differences paired by seed."""
    rows = []
    for better, worse, claim in ORDERINGS:
        shown = []
        for steps in STEPS[1:]:
            pairs = zip(study.runs(better), study.runs(worse), strict=True)
            apart = [b.scores()[steps] - a.scores()[steps] for a, b in pairs]
            shown.append(f"{fmean(apart):+.1f} ({sum(value > 0 for value in apart)} of {len(apart)})")
        rows.append([f"{METHODS[better]} before {METHODS[worse]}", claim, *shown])
    return markdown(["", "in Table 2 (and 4)", *HEAD[1:]], rows)


ORDERINGS = (
    ("dsdi", "tsd", "8 of 9 cells"),
    ("dsdn", "tsd", "8 of 9"),
    ("dsdn", "dsdi", "6 of 9"),
    ("dsdi", "dsdgl", "8 of 9"),
    ("dsdn", "dsdgl", "9 of 9"),
    ("dsdi", "dsdgexp", "9 of 9"),
    ("dsdn", "dsdgexp", "9 of 9"),
)


def plot(page: Path, file: Path) -> None:
    """Scores over the steps, from the page's tables: a panel for each budget, and one for any-step's lengths."""
    figure = Figure(figsize=(16, 4.6), layout="constrained")
    panels = figure.subplots(1, len(BUDGETS) + 1, sharey=True)
    colours = dict(zip(METHODS.values(), colormaps["turbo"].resampled(len(METHODS))(range(len(METHODS))), strict=True))
    styles = dict(zip((f"undistilled, {way}" for way in UNDISTILLED), (":", "--", "-"), strict=True))
    length = scores_in(page, "any-step", "length")
    shades = colormaps["Greys"].resampled(len(length) + 2)
    for axes, budget in zip(panels, (*BUDGETS, None), strict=True):
        for title, scores in scores_in(page, "study", budget or BUDGETS[0]).items():
            if title in styles:
                axes.plot(STEPS, [scores[n] for n in STEPS], styles[title], color="black", label=title)
            elif budget is not None:
                axes.plot(STEPS, [scores[n] for n in STEPS], "o-", color=colours[title], label=title)
        axes.set(title=f"equal {budget}", xlabel="steps", xscale="log", yscale="log")
        axes.set_xticks(STEPS, map(str, STEPS))
        axes.minorticks_off()
    for i, (updates, scores) in enumerate(length.items(), 2):
        panels[-1].plot(STEPS, [scores[n] for n in STEPS], "s-", color=shades(i), label=f"any-step, {updates} updates")
    panels[-1].set_title("any-step: one student")
    panels[0].set_ylabel("fd-fashion (500 samples)")
    panels[0].set_yticks([15, 20, 30, 50, 100, 200, 400], ["15", "20", "30", "50", "100", "200", "400"])
    drawn = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(drawn.values(), drawn.keys(), loc="outside right center")
    figure.savefig(file, dpi=110)


def grids(study: Study, steps: int, file: Path) -> None:
    """Every method's pictures of one noise."""
    from distillkit.cli.pipeline import make_predictor
    from distillkit.config import read_scoring
    from distillkit.evaluation import Pictures, sheet, write_png
    from distillkit.exporting import load_model

    rows = {}
    shown = {"teacher, 64 steps": (TEACHER, 64), f"teacher, {steps} steps": (TEACHER, steps)}
    shown |= {METHODS[method]: (study.runs(method)[0].folder / "pipeline", steps) for method in METHODS}
    for title, (folder, number) in shown.items():
        model = load_model(folder)
        if folder == TEACHER:
            model.spec = model.spec.with_grid("trailing", None)
        predictor, scoring = make_predictor(model, model.spec.path, read_scoring({}, title))
        drawn = Pictures(scoring.evaluation, model, scoring.engine.device, scoring.engine.autocast)
        rows[title] = drawn.first(predictor, number)
    write_png(file, sheet([*rows.values()], [*rows]))


PARTS = ("rates", "budgets", *ABLATIONS, "plot")


def main() -> None:
    """Run what is missing, then write what was found."""
    parser = arguments(__doc__, "runs/study")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to carry out and write")
    given = parser.parse_args()
    study, blocks = Study(given.folder), {}
    if "rates" in given.parts:
        side_by_side([run.carry_out for method in METHODS for run in study.rates(method).values()], given.jobs)
        blocks["rates"] = rates_table(study)
    if "budgets" in given.parts:
        carry_out_budgets(study, given.jobs)
        blocks |= {budget: budget_table(study, budget) for budget in BUDGETS}
        blocks["orderings"] = orderings_table(study)
        write_blocks(DOCS / "methods.md", "study", {method: result(study, method) for method in METHODS})
        for steps in (2, 4):
            grids(study, steps, DOCS / "images" / f"study-steps-{steps:03d}.png")
    for table in ABLATIONS:
        if table in given.parts:
            rows = study.variants(table)
            side_by_side([run.carry_out for group in zip(*rows.values(), strict=True) for run in group], given.jobs)
            blocks[table] = ablation_table(rows)
    write_blocks(DOCS / "study.md", "study", blocks)
    if "plot" in given.parts:
        plot(DOCS / "study.md", DOCS / "images" / "study.png")


def carry_out_budgets(study: Study, jobs: int) -> None:
    """How long updates take, the teacher's scores, and every method at each budget."""
    side_by_side([partial(study.measure, method) for method in METHODS], jobs)
    scored = [partial(score_teacher, teacher(study.top, way, seed), way, seed) for way in UNDISTILLED for seed in SEEDS]
    side_by_side(scored, jobs)
    for budget in BUDGETS:
        groups = [study.runs(method, factor) for method, factor in study.factors(budget).items()]
        side_by_side([run.carry_out for group in zip(*groups, strict=True) for run in group], jobs)


def result(study: Study, method: str) -> str:
    """A method's scores at equal updates, for its own page."""
    shown = ", ".join(cells([run.scores() for run in study.runs(method)]))
    updates = " + ".join(map(str, study.updates(method)))
    return f"*Result* ([study](study.md), {updates} updates, `fd-fashion` at 1, 2, 4 and 8 steps): {shown}."


def ablation_table(rows: dict[str, list[Experiment]]) -> str:
    """One row for what was set otherwise."""
    found = {title: [run.scores() for run in runs] for title, runs in rows.items()}
    return markdown(["", *HEAD[1:]], [[title, *cells(scores, STEPS[1:])] for title, scores in found.items()])


if __name__ == "__main__":
    main()
