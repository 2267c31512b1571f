"""One test for each way in which a config can be wrong, matching the whole message."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

import pytest
from conftest import ConfigFile
from distillkit_engines.torch_engine import TorchEngine

from distillkit.config import read_config
from distillkit.errors import ConfigError, DistillkitError
from distillkit.interfaces import Schedule
from distillkit.registry import Plugin, Registered, load_registry

DSDI = 'preset = "dsdi"\n[run]\nupdates = 7\n'
TABLES = "preset, run, grid, optimizer, ema, student, evaluation, model, teacher, target, critic, schedule, source, \
data, loss, engine, features, metric, tracker"
GIVEN = "'halving' with start = {}, stop = 2, cycles = 1"

MISTAKES = {
    # The names of parts, tables and options.
    "unknown type": (
        DSDI + '[schedule]\ntype = "linaer"\n',
        "schedule.type: no schedule is called 'linaer'; known: constant, convergence, exponential, halving, linear"
        " — did you mean 'linear'?",
    ),
    "type is no string": (
        DSDI + "[schedule]\ntype = 3\n",
        "schedule.type: is required, a string; known: constant, convergence, exponential, halving, linear",
    ),
    "unknown option": (
        DSDI + '[schedule]\ntype = "linear"\nstep = 2\n',
        "schedule.step: unknown option of 'linear'; it has: start, stop, decrement — did you mean 'stop'?",
    ),
    "option of the preset's other type": (
        DSDI + "[schedule]\ndecrement = 2\n",
        "schedule.decrement: unknown option of 'halving'; it has: start, stop, cycles",
    ),
    "unknown option of a core table": (
        DSDI + "[ema]\nrate = 0.9\n",
        "ema.rate: unknown option of [ema]; it has: decay, warmup",
    ),
    "unknown table": (
        DSDI + "[optimiser]\nclip = 1\n",
        f"optimiser: unknown table; a config has: {TABLES} — did you mean 'optimizer'?",
    ),
    "unknown preset": (
        'preset = "dsdx"\n[run]\nupdates = 7\n',
        "preset: no preset is called 'dsdx'; known: any-step, best, consistency, dmd, dsd-anchored, dsd-training, "
        "dsdgexp, dsdgl, dsdi, dsdn, guided, luhman, luhman-cached, matching, pd, shortcut, sid, training, tsd — did "
        "you mean 'dsdn'?",
    ),
    "preset is no name": (
        "preset = 3\n[run]\nupdates = 7\n",
        "preset: must be a preset's name, a string (got 3)",
    ),
    # Values.
    "out of range, nested": (
        DSDI + "[optimizer]\nbetas = [0.9, 1.5]\n",
        "optimizer.betas[1]: must be less than 1 (got 1.5)",
    ),
    "too few entries": (DSDI + "[optimizer]\nbetas = [0.9]\n", "optimizer.betas[1]: is required"),
    "too many entries": (
        DSDI + "[optimizer]\nbetas = [0.9, 0.9, 0.9]\n",
        "optimizer.betas: must have at most 2 entries (got [0.9, 0.9, 0.9])",
    ),
    "string for a number": (
        DSDI + '[optimizer]\nlearning_rate = "1e-5"\n',
        "optimizer.learning_rate: must be a number (got '1e-5')",
    ),
    "fraction for a whole number": (
        DSDI + "[optimizer]\nwarmup = 1.5\n",
        "optimizer.warmup: must be a whole number (got 1.5)",
    ),
    "switch for a number": (
        DSDI + "[optimizer]\nwarmup = true\n",
        "optimizer.warmup: must be a whole number (got true)",
    ),
    "number for a switch": (DSDI + "[ema]\nwarmup = 1\n", "ema.warmup: must be true or false (got 1)"),
    "nan": (DSDI + "[optimizer]\nclip = nan\n", "optimizer.clip: must be a finite number (got nan)"),
    "inf": (DSDI + "[source]\nguidance = inf\n", "source.guidance: must be a finite number, or a list (got inf)"),
    "not among the choices": (
        DSDI + '[grid]\nspacing = "even"\n',
        "grid.spacing: must be 'trailing', 'leading', 'linspace', 'angle', 'karras' or as 'karras-8', or a blend of "
        "two of them, as in 'trailing + angle' or '0.7 trailing + 0.3 angle' (got 'even')",
    ),
    "neither the word nor a number": (
        DSDI + '[grid]\nstart = "last"\n',
        "grid.start: must be 'auto' or 'late', or a whole number (got 'last')",
    ),
    "the number of a choice is out of range": (
        DSDI + "[grid]\nstart = -1\n",
        "grid.start: must be 'auto' or 'late', or at least 0 (got -1)",
    ),
    "a part of one choice": (
        DSDI + "[source]\nguidance = [1, -2]\n",
        "source.guidance[1]: must be at least 0 (got -2)",
    ),
    "a range that falls": (
        DSDI + "[source]\nguidance = [3.0, 1.0]\n",
        "source.guidance: must be a number, or [low, high], the lower first (got [3.0, 1.0])",
    ),
    "no numbers of steps": (
        DSDI + "[evaluation]\nsteps = []\n",
        "evaluation.steps: needs 1 or more entries (got [])",
    ),
    "unknown adapter": (
        DSDI + '[student]\nadapter = "lore"\n',
        "student.adapter: must be 'lora' (got 'lore')",
    ),
    "no adapter": (
        DSDI + "[student]\nrank = 4\n",
        'student: rank is an option of an adapter: give adapter = "lora" as well',
    ),
    "unknown option of an adapter": (
        DSDI + '[student]\nadapter = "lora"\ndropout = 0.1\n',
        "student.dropout: unknown option of [student]; it has: guidance, start, adapter, rank, alpha, target_modules",
    ),
    "an adapter of rank 0": (
        DSDI + '[student]\nadapter = "lora"\nrank = 0\n',
        "student.rank: must be at least 1 (got 0)",
    ),
    "an adapter that does nothing": (
        DSDI + '[student]\nadapter = "lora"\nalpha = 0\n',
        "student.alpha: must be greater than 0 (got 0)",
    ),
    "an adapter of no layers": (
        DSDI + '[student]\nadapter = "lora"\ntarget_modules = []\n',
        "student.target_modules: needs 1 or more entries (got [])",
    ),
    "an adapter of something else than layers": (
        DSDI + '[student]\nadapter = "lora"\ntarget_modules = "to_q"\n',
        "student.target_modules: must be a list (got 'to_q')",
    ),
    "run's name": (
        DSDI + 'name = "my run"\n',
        "run.name: must be a folder's name: letters, digits, '.', '_' and '-', the first a letter or digit"
        " (got 'my run')",
    ),
    "two options that disagree": (
        DSDI + "[schedule]\nstart = 4\nstop = 8\n",
        "schedule: stop = 8 must not be above start = 4",
    ),
    "table's place taken by a value": (
        'preset = "dsdi"\nsource = 5\n[run]\nupdates = 7\n',
        "source: must be a table with a `type` (got 5)",
    ),
    "core table's place taken by a value": ('preset = "dsdi"\nrun = 5\n', "run: must be a table (got 5)"),
    "one table for a list": (
        DSDI + '[loss]\ntype = "x-mse"\n',
        "loss: must be a list of tables: write [[loss]]",
    ),
    "a list for one table": (
        DSDI + '[[schedule]]\ntype = "linear"\n',
        "schedule: must be one table: write [schedule]",
    ),
    "one of a list": (
        DSDI + '[[loss]]\ntype = "x-mse"\n[[loss]]\ntype = "x-mse"\nweight = -1\n',
        "loss[1].weight: must be at least 0, or a table (got -1)",
    ),
    # What is missing.
    "no run.updates": ('preset = "dsdi"\n', "run.updates: is required"),
    "no target": (
        '[run]\nupdates = 7\n[schedule]\ntype = "constant"\n[source]\ntype = "noised-data"\n'
        '[data]\ntype = "digits"\n[[loss]]\ntype = "x-mse"\n',
        'loss[0].against: is "target", but there is no [target]; set it to "data"',
    ),
    "no teacher": (
        '[run]\nupdates = 7\n[schedule]\ntype = "constant"\n[source]\ntype = "trajectory"\n'
        '[target]\ntype = "merged-steps"\n[[loss]]\ntype = "x-mse"\n',
        "teacher: is required: the target 'merged-steps' asks it for predictions",
    ),
    "nobody to teach": (
        'preset = "training"\n[run]\nupdates = 7\n[data]\ntype = "digits"\n[teacher]\ntype = "self"\n',
        "teacher: 'self' is not used without a target: add a [target], or remove [teacher]",
    ),
    "no data": (
        'preset = "pd"\n[run]\nupdates = 7\n',
        "data: is required: the source 'noised-data' draws from a data set; add a [data] table",
    ),
    "no features": (
        DSDI + '[[metric]]\ntype = "fid"\n',
        "features: is required: metrics need a feature network; add a [features] table",
    ),
    "consistency target without an average": (
        'preset = "dsdi"\n[run]\nupdates = 7\n[target]\ntype = "consistency"\n',
        "target.decay: is required: the target is a slow average (EMA) of the student; give its decay per update, as in"
        " 0.95",
    ),
    "consistency target whose average never moves": (
        'preset = "consistency"\n[run]\nupdates = 7\n[target]\ndecay = 1\n',
        "target.decay: must be less than 1 (got 1)",
    ),
    # Tables that do not go together.
    "consistency sampling of another grid": (
        'preset = "consistency"\n[run]\nupdates = 7\n[grid]\nspacing = "leading"\n',
        'grid.spacing: is "leading", but consistency sampling starts at the noise and visits the times of "trailing",'
        ' as diffusers\' LCMScheduler does: set it to "trailing", or evaluation.sampler to "ddim"',
    ),
    "loss against data that the source has not": (
        DSDI + '[[loss]]\ntype = "x-mse"\n[[loss]]\ntype = "v-mse"\nagainst = "data"\n',
        "loss[1].against: \"data\" needs a source with data; 'trajectory' has none: use 'noised-data'",
    ),
    "no loss against the target": (
        'preset = "pd"\n[run]\nupdates = 7\n[data]\ntype = "digits"\n[[loss]]\ntype = "v-mse"\nagainst = "data"\n',
        'loss: no loss is against the target; give one `against = "target"`, or remove [target]',
    ),
    "metric without reference": (
        DSDI + '[features]\ntype = "pixels"\n[[metric]]\ntype = "fid"\n',
        "evaluation.reference: is \"auto\", but 'fid' has no real images there to compare with:"
        " the features 'pixels' have none, and there is no [data] table",
    ),
    "metric without logits": (
        DSDI + '[features]\ntype = "pixels"\n[[metric]]\ntype = "inception-score"\n',
        "metric[0].type: 'inception-score' needs class logits; the features 'pixels' have none",
    ),
    "jumps that a walk is not made of": (
        'preset = "matching"\n[run]\nupdates = 7\n[source]\ntype = "noised-data"\n[data]\ntype = "digits"\n',
        "source.type: the jumps of 'noised-data' do not follow one another, and the target"
        " 'trajectory-matching' continues from each jump to the next; use 'rollout' or 'trajectory'",
    ),
    "a landing that the source does not know": (
        'preset = "luhman-cached"\n[run]\nupdates = 7\n[source]\ntype = "trajectory"\n',
        "source.type: 'trajectory' does not know where the teacher lands, which the target 'stored-landing' needs;"
        " use 'cached-trajectories', or another target",
    ),
    "odd N": (
        DSDI + "[schedule]\nstart = 9\n",
        f"schedule: {GIVEN.format(9)} has a stage of 9 steps, which the target's jumps of 2 do not divide;"
        " make the steps of every stage a multiple of 2",
    ),
    "N that halves to an odd number": (
        DSDI + "[schedule]\nstart = 10\n",
        f"schedule: {GIVEN.format(10)} has a stage of 5 steps, which the target's jumps of 2 do not divide;"
        " make the steps of every stage a multiple of 2",
    ),
    "N that the stride does not divide": (
        DSDI + "[target]\nstride = 3\n",
        f"schedule: {GIVEN.format(64)} has a stage of 64 steps, which the target's jumps of 3 do not divide;"
        " make the steps of every stage a multiple of 3",
    ),
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_one_mistake(config: ConfigFile, text: str, message: str) -> None:
    path = config.write(text)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert str(caught.value) == f"{path}: 1 error\n  {message}"


def test_an_engine_that_keeps_its_moments(config: ConfigFile, monkeypatch: pytest.MonkeyPatch) -> None:
    text = DSDI + '[optimizer]\nmoments = "stage"\n'
    assert read_config(config.write(text)).phases[0].optimizer.moments == "stage"
    monkeypatch.delattr(TorchEngine, "restart_moments")
    with pytest.raises(ConfigError) as caught:
        read_config(config.write(text))
    [mistake] = caught.value.mistakes
    assert str(mistake) == 'optimizer.moments: is "stage", and the engine \'torch\' keeps them: set it to "run"'


class Odd(Schedule):
    """A third party's, with stages that are no good."""

    name = "odd"

    class Options(Schedule.Options):
        shares: list[tuple[int, float]]

    options: Options

    def shares(self) -> list[tuple[int, float]]:
        return self.options.shares


@pytest.mark.parametrize(
    ("shares", "fault"),
    [
        ("[[8, 1.0], [4, 0.0]]", ""),
        ("[[8, 1.0], [4, -0.5]]", "needs stages of at least 1 step, with shares that are not negative and not all 0"),
        ("[[8, 0.0], [4, 0.0]]", "needs stages of at least 1 step, with shares that are not negative and not all 0"),
        ("[[8, 1.0], [0, 1.0]]", "needs stages of at least 1 step, with shares that are not negative and not all 0"),
        ("[]", "has no stages"),
    ],
)
def test_shares_that_make_no_schedule(config: ConfigFile, shares: str, fault: str) -> None:
    registry = load_registry()
    registry.components["schedule"]["odd"] = [Registered("schedule", "odd", Odd, Plugin("odd", "odd", "1.0"))]
    path = config.write(DSDI + f'[schedule]\ntype = "odd"\nshares = {shares}\n')
    if not fault:
        read_config(path, registry=lambda: registry)
        return
    with pytest.raises(ConfigError) as caught:
        read_config(path, registry=lambda: registry)
    assert str(caught.value) == f"{path}: 1 error\n  schedule: 'odd' with shares = {shares} {fault}"


def test_missing_tables(config: ConfigFile) -> None:
    path = config.write("[run]\nupdates = 7\n", below="")
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert str(caught.value).splitlines() == [
        f"{path}: 4 errors",
        "  model: is required: add a [model] table, or a preset that has one",
        "  schedule: is required: add a [schedule] table, or a preset that has one",
        "  source: is required: add a [source] table, or a preset that has one",
        "  loss: is required: add a [[loss]] table, or a preset that has one",
    ]


def test_all_at_once_in_the_file_s_order(config: ConfigFile) -> None:
    """Tables' own mistakes, those between tables and those of `--set` come together."""
    path = config.write(
        'preset = "pd"\n[schedule]\nstart = 10\n[optimizer]\nbetas = [2, 0.9]\nrate = 1\n'
        '[metrik]\n[source]\nbatch = 0\n[run]\nupdates = 0\n[[metric]]\ntype = "fid"\n'
    )
    with pytest.raises(ConfigError) as caught:
        read_config(path, ["run"])
    assert [mistake.key for mistake in caught.value.mistakes] == [
        "--set",
        "schedule",
        "optimizer.betas[0]",
        "optimizer.rate",
        "metrik",
        "source.batch",
        "run.updates",
        "features",
    ]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DistillkitError) as caught:
        read_config(tmp_path / "no.toml")
    assert str(caught.value) == f"{tmp_path}/no.toml: there is no such file; give the path of a file"


def test_folder_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(DistillkitError) as caught:
        read_config(tmp_path)
    assert str(caught.value) == f"{tmp_path}: is a folder, and not a file; give the path of a file"


def test_pipe_for_a_file(tmp_path: Path) -> None:
    """Opening it would wait for ever."""
    os.mkfifo(tmp_path / "my.toml")
    with pytest.raises(DistillkitError) as caught:
        read_config(tmp_path / "my.toml")
    assert str(caught.value) == f"{tmp_path}/my.toml: is a pipe (FIFO), and not a file; give the path of a file"


def test_file_of_a_windows_editor(config: ConfigFile) -> None:
    """It begins with a byte-order mark."""
    path = config.write(DSDI)
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert read_config(path).phases


def test_unreadable_toml_tells_line_and_column(config: ConfigFile) -> None:
    path = config.write("[run]\nupdates = \n", below="")
    with pytest.raises(DistillkitError) as caught:
        read_config(path)
    assert str(caught.value) == f"{path}: not valid TOML: Invalid value (at line 2, column 11)"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("run.updates", "expected key=value, as in run.updates=100 (got 'run.updates')"),
        ("=3", "expected key=value, as in run.updates=100 (got '=3')"),
        ("run..updates=3", "expected key=value, as in run.updates=100 (got 'run..updates=3')"),
        ("loss.weight=2", "loss.weight: 'loss' is a list; name an entry, as in loss[0].weight"),
        ("loss[1].weight=2", "loss[1].weight: 'loss' has no entry [1]; it has 1, counted from 0"),
        ("run[0]=2", "run[0]: 'run' has no entry [0]; it has 0, counted from 0"),
        ("run.updates.x=2", "run.updates.x: 'run.updates' is not a table (it is 7)"),
        ("preset.x=1", "preset is a name and has no keys; write preset=NAME"),
    ],
)
def test_bad_set(config: ConfigFile, assignment: str, message: str) -> None:
    path = config.write(DSDI)
    with pytest.raises(ConfigError) as caught:
        read_config(path, [assignment])
    assert str(caught.value) == f"{path}: 1 error\n  --set: {message}"


def test_set_value_of_a_wrong_type_names_the_key(config: ConfigFile) -> None:
    with pytest.raises(ConfigError, match=r"\n  run\.updates: must be a whole number \(got 'many'\)$"):
        read_config(config.write(DSDI), ["run.updates=many"])
