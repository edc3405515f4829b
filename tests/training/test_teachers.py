"""Knowledge distillation: networks that are trained first teach the model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import worlds
from ssd4rec import cli, pipeline
from ssd4rec.artifact import load_artifact
from ssd4rec.baselines.sequential_ridge import SequentialRidge
from ssd4rec.config import is_read, load_config, settings
from ssd4rec.data.packing import materialize_batch
from ssd4rec.data.split import training_counts, training_interactions
from ssd4rec.errors import ConfigError, ShapeError, StateError
from ssd4rec.evaluation.tune_fusion import tune_fusion
from ssd4rec.fusion import PAIR_MODELS
from ssd4rec.models.next_item import fingerprint, make_model
from ssd4rec.training import checkpoint, loop, setup
from ssd4rec.training.callbacks import Callback
from ssd4rec.training.objective import next_item_loss, plan_pass, prepare
from ssd4rec.training.teacher import LEFT_OUT, Teacher
from ssd4rec.tuning.space import make_space

WEIGHT = 0.4  # of the teachers
RIDGE = 1.5  # weight of the regression in their scores


def configured(*, members=1, **training):
    usual = {
        "max_epochs": 2,
        "token_budget": 128,
        "learning_rate": 3e-3,
        "mask_ratio": 0.2,
        "label_smoothing": 0.1,
        "teacher_weight": WEIGHT,
    }
    config = worlds.config(**usual | training)
    return config.replaced("backbone", members=members, repeat_logits="popularity")


@pytest.fixture(scope="module")
def data():
    return worlds.world(worlds.cycle(users=20), configured())


@pytest.fixture(scope="module")
def teacher(data):
    return pipeline.fit(data, configured(members=2))


@pytest.fixture(scope="module")
def taught(data):
    return pipeline.fit(data, configured(teachers=2))


def left_out(data, model):
    """The logits of a regression for each training target, fitted on the other sequences. {event: [V]}."""
    train, catalog = data.split.train, len(data.catalog)
    logits = {}
    for row in range(len(train)):
        others = training_interactions(data.histories, train.take(np.arange(len(train)) != row))
        pairs = PAIR_MODELS[model].fit(*others, catalog, neighbors=catalog)
        for event in range(train.first_target[row], train.stop[row]):
            read = torch.from_numpy(data.histories.items[train.start[row] : event].astype(np.int64))
            places, values = pairs.raises(read, torch.tensor([0, len(read)]), slice(0, 1))
            logits[event] = torch.zeros(catalog).index_add(0, places, values)
    return logits


def by_definition(data, config, teacher, fixed=None):
    """Adam on the cross-entropy with the mixture of target, soft targets and smoothing, from all scores at once."""
    model, catalog = make_model(config, len(data.catalog)).train(), len(data.catalog)
    model.repeat_logits.set_popularity(training_counts(data.histories, data.split.train, catalog))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.training.learning_rate, fused=True)
    step = 0
    for epoch in range(config.training.max_epochs):
        plan = plan_pass(data.split.train, config.training, epoch)
        for placed in plan.batches:
            packed = materialize_batch(data.histories, plan.examples, placed, target_events=True)
            batch = prepare(packed, config.training, repeats=True)
            everything = slice(0, len(batch.targets))

            def scores(network, items, batch=batch, everything=everything):
                states = network.encode_prefixes(items, batch.cu_seqlens)[batch.target_positions]
                cells, logits = network.repeat_logits.added(states, batch.prefixes).logits(everything)
                plain = states @ network.item_vectors.T
                return plain, plain.index_put((cells.row, cells.column), logits, accumulate=True)

            with torch.no_grad():
                of_teacher = scores(teacher, batch.items)[1]
                if fixed is not None:
                    of_teacher += RIDGE * torch.stack([fixed[event] for event in batch.target_events.tolist()])
                soft = of_teacher.softmax(1)
            torch.manual_seed((config.training.seed << 32) + step)
            step += 1
            visible = torch.where(torch.rand(batch.items.shape) < config.training.mask_ratio, 0, batch.items)
            plain, raised = scores(model, visible)
            target = torch.nn.functional.one_hot(batch.targets - 1, catalog).float()
            # smoothing uses the scores without the repeat logits
            expected = (((1 - WEIGHT) * target + WEIGHT * soft) * raised).sum(1)
            smoothing = 0.1 * (1 - WEIGHT) * ((target - 1 / catalog) * plain).sum(1)
            optimizer.zero_grad()
            (raised.logsumexp(1) - expected + smoothing).mean().backward()
            optimizer.step()
    return model


def test_the_weights_are_those_of_plain_steps(data, teacher, taught):
    """The teachers are trained as a model of their own would be, then each step learns the mixture of targets."""
    assert fingerprint(taught.teacher.model) == fingerprint(teacher.model)
    assert taught.training_of_teachers.history[-1].ndcg == teacher.training.history[-1].ndcg
    with torch.random.fork_rng():
        expected = by_definition(data, configured(teachers=2), teacher.model.eval())
    assert taught.training.best_epoch == 2
    weights = expected.state_dict()
    for name, parameter in taught.model.state_dict().items():
        torch.testing.assert_close(parameter, weights[name], rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("model", LEFT_OUT)
def test_a_regression_teaches_too(data, teacher, taught, model):
    """Its scores are added to those of the teachers; for each sequence it is the regression of the others."""
    config = configured(teachers=2, teacher_cooccurrence=RIDGE, teacher_cooccurrence_model=model)
    actual = pipeline.fit(data, config)
    with torch.random.fork_rng():
        expected = by_definition(data, config, teacher.model.eval(), left_out(data, model))
    weights = expected.state_dict()
    for name, parameter in actual.model.state_dict().items():
        torch.testing.assert_close(parameter, weights[name], rtol=2e-3, atol=2e-5)
    assert fingerprint(actual.model) != fingerprint(taught.model)


@pytest.mark.parametrize("objective", ["all-positions", "per-prefix"])
def test_a_batch_knows_where_its_targets_are(data, objective):
    config = configured(objective=objective).training
    plan = plan_pass(data.split.train, config, epoch=0)
    for placed in plan.batches:
        batch = prepare(materialize_batch(data.histories, plan.examples, placed, target_events=True), config)
        assert batch.targets.tolist() == data.histories.items[batch.target_events].tolist()


def test_the_weight_of_the_ridge_is_tuned_on_the_validation_set(data, teacher, caplog):
    """It is the weight that score fusion would have with the teachers; each regression is fitted once."""
    caplog.set_level("INFO", "ssd4rec")
    config = configured(teachers=2, teacher_cooccurrence="tuned").replaced(
        "fusion", cooccurrence="tuned", cooccurrence_model="sequential-ridge"
    )
    artifact = pipeline.train(data, config)
    ridge = SequentialRidge.fit(*training_interactions(data.histories, data.split.train), len(data.catalog))
    tuned = tune_fusion(teacher.model.eval(), ridge, data.histories, data.split.validation, repeat_bias=(0.0,))
    assert tuned.fusion.weight > 0
    assert f"sequential-ridge, weight {tuned.fusion.weight:g}: validation ndcg@10 of the teachers" in caplog.text
    assert f"_cooccurrence = {tuned.fusion.weight:g}, training.teacher_cooccurrence_model = sequential-ridge" in caplog.text
    assert caplog.text.count("fitting") == 2
    assert artifact.report["teachers"]["cooccurrence"] == tuned.fusion.weight
    assert artifact.report["teachers"]["cooccurrence_model"] == "sequential-ridge"
    assert artifact.report["fusion"]["cooccurrence_model"] == "sequential-ridge"


@pytest.mark.parametrize(("useless", "chosen"), [(["sequential-ridge"], "ease"), ([*LEFT_OUT], None)])
def test_the_better_regression_teaches(data, monkeypatch, useless, chosen):
    """By its gain with the teachers on the validation set; none, if none gains anything."""
    for name in useless:
        nothing = PAIR_MODELS[name].nothing(len(data.catalog))
        monkeypatch.setattr(LEFT_OUT[name], "solve", lambda *_, nothing=nothing: nothing)
    fitted = pipeline.fit(data, configured(teachers=2, teacher_cooccurrence="tuned"))
    assert fitted.teacher.cooccurrence_model == chosen
    assert bool(fitted.teacher.weight) == bool(chosen)
    assert {pairs.name for pairs in fitted.pairs} == LEFT_OUT.keys()


SMALL = ("backbone.width=16", "training.max_epochs=1", "training.teachers=1")


def test_where_no_ridge_teaches(data, monkeypatch, caplog):
    """BERT4Rec reads what follows a target, too, and a ridge has room for so many items only."""
    caplog.set_level("INFO", "ssd4rec")
    masked = ["backbone.name=bert4rec", "training.objective=masked-item", *SMALL]
    tuned = "training.teacher_cooccurrence=tuned"
    fitted = [pipeline.fit(data, load_config("quick", [*masked, tuned]))]
    assert "training.teacher_cooccurrence = 0, as a regression does not read what follows a masked item" in caplog.text
    with pytest.raises(ConfigError, match=r"teacher_cooccurrence = 1 needs targets that follow.*set training\.teacher_co"):
        load_config("quick", [*masked, "training.teacher_cooccurrence=1"])
    fitted.append(pipeline.fit(data, load_config("quick", SMALL)))
    monkeypatch.setattr(pipeline.training, "MAX_ITEMS", 6)
    fitted.append(pipeline.fit(data, load_config("quick", [*SMALL, tuned])))
    assert "training.teacher_cooccurrence = 0, as a regression has room for 6 items only" in caplog.text
    assert [(each.teacher.weight, each.pairs) for each in fitted] == [(0.0, ())] * 3


def test_a_teacher_with_a_regression_needs_the_events_of_the_targets(data):
    model = make_model(configured(), len(data.catalog)).eval()
    teacher = Teacher(model, pipeline.training.fit_left_out("sequential-ridge", data, data.split.train)[0], 1.0)
    plan = plan_pass(data.split.train, configured().training, epoch=0)
    batch = materialize_batch(data.histories, plan.examples, plan.batches[0])
    with pytest.raises(ShapeError, match="needs to know the events that are predicted"):
        next_item_loss(model, batch, configured().training, teacher=teacher)
    assert len({each.fingerprint for each in (Teacher(model), teacher, replace(teacher, weight=2.0))}) == 3


@pytest.mark.parametrize(
    ("backbone", "changes"),
    [
        ("ssd4rec", {}),
        ("ssd4rec", {"objective": "per-prefix"}),
        ("bert4rec", {"objective": "masked-item", "mask_ratio": 0.5}),
    ],
)
def test_nothing_is_left_to_learn_from_oneself(data, backbone, changes):
    """With the weight 1, the gradient is zero where the model predicts what its teacher does."""
    config = load_config("quick", [f"backbone.name={backbone}", "backbone.width=16", "backbone.repeat_logits=popularity"])
    config = config.replaced("training", **{"mask_ratio": 0.0, "teachers": 1, "teacher_weight": 1.0} | changes)
    model = make_model(config, len(data.catalog)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    plan = plan_pass(data.split.train, config.training, epoch=0)
    batch = materialize_batch(data.histories, plan.examples, plan.batches[0])
    sizes = []
    for taught_by in (Teacher(model), None):
        torch.manual_seed(0)  # of the masks
        model.zero_grad()
        next_item_loss(model, batch, config.training, teacher=taught_by).backward()
        sizes.append(float(model.table.weight.grad.abs().max()))
    assert sizes[0] < 1e-5 * sizes[1]


class Stop(Callback):
    """Breaks off the training of the teachers, or of the model, after so many steps."""

    follows_teachers = True

    def __init__(self, step, *, of_teachers):
        self.step, self.of_teachers = step, of_teachers

    def on_batch_start(self, loop):
        if loop.step == self.step and (loop.teacher is None) == self.of_teachers:
            raise ConnectionAbortedError("power cut")


@pytest.mark.parametrize("teachers", [2, "auto"])
@pytest.mark.parametrize("of_teachers", [True, False])
@pytest.mark.parametrize("resume", [True, "auto"])
def test_both_stages_resume_to_the_same_weights(data, taught, tmp_path, monkeypatch, teachers, of_teachers, resume):
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    folder, stop = tmp_path / "model.training", Stop(3, of_teachers=of_teachers)
    with pytest.raises(ConnectionAbortedError):
        pipeline.fit(data, configured(teachers=teachers), folder=folder, callbacks=[stop])
    assert (folder / checkpoint.LAST).is_file() != of_teachers
    again = pipeline.fit(data, configured(teachers=teachers), folder=folder, resume=resume)
    assert fingerprint(again.model) == fingerprint(taught.model)


def test_a_training_with_a_ridge_resumes_to_the_same_weights(data, tmp_path, monkeypatch):
    """The ridge and its weight are computed again; another weight is another training."""
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    config, folder = configured(teachers=2, teacher_cooccurrence="tuned"), tmp_path / "model.training"
    interrupted(data, config, folder, of_teachers=False)
    with pytest.raises(StateError, match=r"of another training.*teacher_cooccurrence was 'tuned', now 0\.3"):
        pipeline.fit(data, config.replaced("training", teacher_cooccurrence=0.3), folder=folder, resume=True)
    again = pipeline.fit(data, config, folder=folder, resume=True)
    assert fingerprint(again.model) == fingerprint(pipeline.fit(data, config).model)


def interrupted(data, config, folder, *, of_teachers, resume=False):
    with pytest.raises(ConnectionAbortedError):
        pipeline.fit(data, config, folder=folder, resume=resume, callbacks=[Stop(3, of_teachers=of_teachers)])


def test_a_checkpoint_that_is_older_than_the_teachers_is_left_out(data, taught, tmp_path, monkeypatch, caplog):
    """An interrupted training is started over with other settings, and interrupted again before the teachers are ready."""
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    folder = tmp_path / "model.training"
    interrupted(data, configured(teachers=2, learning_rate=1e-3), folder, of_teachers=False)
    interrupted(data, configured(teachers=2), folder, of_teachers=True)
    again = pipeline.fit(data, configured(teachers=2), folder=folder, resume=True)
    assert "starting over: " in caplog.text
    assert fingerprint(again.model) == fingerprint(taught.model)


def test_a_model_does_not_resume_under_other_teachers(data, tmp_path, monkeypatch):
    """With more patience, or another number of epochs, finished teachers would go on."""
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    folder, config = tmp_path / "model.training", configured(teachers=2)
    interrupted(data, config, folder, of_teachers=False)
    model = make_model(config, len(data.catalog))
    with pytest.raises(StateError, match="is the checkpoint of another training: other teachers"):
        loop.fit(model, data.histories, data.split, config.training, directory=folder, resume=True, teacher=Teacher(model))


def test_a_training_without_teachers_is_continued_without(data, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    folder = tmp_path / "model.training"
    with pytest.raises(ConnectionAbortedError):
        pipeline.fit(data, configured(), folder=folder, callbacks=[Stop(3, of_teachers=True)])
    with pytest.raises(StateError, match=r"of a training without teachers; continue it with --set training\.teachers=0"):
        pipeline.fit(data, configured(teachers="auto"), folder=folder, resume=True)


def test_an_interrupted_training_is_named(data, tmp_path, monkeypatch, caplog):
    """Also where only the teachers have a checkpoint; with nothing to resume there is an error."""
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    with pytest.raises(StateError, match="nothing to resume"):
        pipeline.fit(data, configured(teachers=2), folder=tmp_path / "none", resume=True)
    for _ in range(2):
        with pytest.raises(ConnectionAbortedError):
            pipeline.fit(data, configured(teachers=2), folder=tmp_path / "a", callbacks=[Stop(3, of_teachers=True)])
    assert "holds an interrupted training; starting over" in caplog.text


def test_callbacks_follow_the_model_alone(data, taught):
    """A tracker or a pruning sees one training, unless it asks for more."""

    class Count(Callback):
        def __init__(self):
            self.epochs = 0

        def on_epoch_end(self, loop):
            self.epochs += 1
            assert loop.teacher is not None

    count = Count()
    pipeline.fit(data, configured(teachers=2), callbacks=[count])
    assert count.epochs == len(taught.training.history)


@pytest.mark.parametrize("teachers", [2, "auto"])
def test_report_and_final_fit(data, teacher, teachers, monkeypatch):
    """The report has the training of the teachers, which also teach the final fit, with the ridge of all events."""
    fit_left_out, trained_on = pipeline.training.fit_left_out, []

    def recorded(name, data, train, progress=None):
        trained_on.append(train.targets)
        return fit_left_out(name, data, train, progress)

    monkeypatch.setattr(pipeline.training, "fit_left_out", recorded)
    of_regression = {"teacher_cooccurrence": 1.0, "teacher_cooccurrence_model": "sequential-ridge"}
    artifact = pipeline.train(data, configured(teachers=teachers, final_fit=True, **of_regression))
    assert artifact.report["teachers"]["best_ndcg"] == teacher.training.best_ndcg
    assert artifact.report["seconds"]["teachers"] > 0
    assert artifact.report["final_fit"]["steps"] > 0
    assert trained_on == [data.split.train.targets, artifact.report["final_fit"]["targets"]]
    assert artifact.report["teachers"]["cooccurrence"] == 1.0
    plain = pipeline.train(data, configured(final_fit=True))
    assert "teachers" not in plain.report
    assert fingerprint(plain.model) != fingerprint(artifact.model)


@pytest.mark.parametrize(("key", "value"), [("softmax", "sampled"), ("shard_item_table", "true")])
def test_settings_without_all_scores_are_refused(key, value):
    with pytest.raises(ConfigError, match=rf"training\.teachers = 4 needs the scores of all items.*training\.{key}"):
        load_config("regularized", ["training.teachers=4", f"training.{key}={value}"])


def test_large_catalogs_need_the_full_softmax(data, monkeypatch):
    monkeypatch.setattr(settings, "FULL_SOFTMAX_MAX_ITEMS", 5)
    with pytest.raises(ConfigError, match=r"the softmax is sampled, as there are 12 items; set training\.softmax=full"):
        pipeline.fit(data, configured(teachers=2))


def test_where_teachers_are_not_trained(data):
    config = configured(teachers=2)
    with pytest.raises(ConfigError, match=r"training\.teachers = 2, but no teacher was passed"):
        loop.fit(make_model(config, len(data.catalog)), data.histories, data.split, config.training)
    with pytest.raises(ConfigError, match=r"trials train one model each"):
        make_space(config)
    for search in ("training.teachers=auto|0", "training.teacher_weight=0.2:0.8"):
        with pytest.raises(ConfigError, match=r"trials train one model each"):
            make_space(configured(teachers="auto"), [search])
    assert make_space(configured(teachers="auto"))


def test_the_weight_is_read_with_teachers_only():
    assert is_read(configured(teachers=2), "training.teacher_weight")
    assert is_read(configured(teachers="auto"), "training.teacher_weight")
    assert not is_read(configured(), "training.teacher_weight")


def automatic(data, **changes):
    """The number of teachers that training.teachers = "auto" chooses."""
    config = configured(teachers="auto", **changes)
    return setup.choose_teachers(config, data.histories, data.split, len(data.catalog))


def test_auto_has_two_teachers_on_sparse_data(data, monkeypatch, caplog):
    """By the training interactions of an item, and as long as an epoch has not too many scores."""
    caplog.set_level("INFO", "ssd4rec")
    per_item = setup.interactions_per_item(data.histories, data.split, len(data.catalog))
    counts = training_counts(data.histories, data.split.train, len(data.catalog))
    assert per_item == counts.sum() / (counts > 0).sum()
    assert per_item < setup.SPARSE
    assert automatic(data) == 2
    line = "teachers: 2, as an item has 18 training interactions on average, fewer than 55 (training.teachers=auto); "
    assert caplog.messages[-1].startswith(line)
    monkeypatch.setattr(setup, "MAX_SCORES", data.split.train.targets * len(data.catalog))
    assert automatic(data) == 2
    monkeypatch.setattr(setup, "MAX_SCORES", data.split.train.targets * len(data.catalog) - 1)
    assert automatic(data) == 0
    assert "scores (targets times items), more than" in caplog.messages[-1]
    monkeypatch.undo()
    monkeypatch.setattr(setup, "SPARSE", per_item)
    assert automatic(data) == 0
    assert caplog.messages[-1].endswith("or more (training.teachers=auto)")


@pytest.mark.parametrize("changes", [{"softmax": "sampled"}, {"shard_item_table": True}])
def test_auto_has_no_teachers_where_they_do_not_fit(data, changes, caplog):
    caplog.set_level("INFO", "ssd4rec")
    assert automatic(data, **changes) == 0
    assert "teachers: 0, as " in caplog.text


def test_auto_trains_what_the_number_would(data, taught):
    by_itself = pipeline.fit(data, configured(teachers="auto"))
    assert by_itself.teacher is not None
    assert fingerprint(by_itself.model) == fingerprint(taught.model)


def test_several_networks_learn_from_teachers_too(data):
    """Each of them learns from the mean of the teachers' predictions."""
    of_two = [pipeline.fit(data, configured(members=2, teachers=teachers, max_epochs=1)) for teachers in ("auto", 2, 0)]
    by_itself, taught, alone = (fingerprint(each.model) for each in of_two)
    assert by_itself == taught != alone


def test_a_model_that_is_continued_teaches_itself(data, tmp_path, caplog):
    """Without it the model forgets what its teachers knew; a number trains teachers there too."""
    caplog.set_level("INFO", "ssd4rec")
    config = configured(teachers="auto", max_epochs=1)
    first = pipeline.train(data, config)
    assert "teachers" in first.report
    second = pipeline.train(data, config, start=first)
    assert "teachers" not in second.report
    assert "teachers" not in second.report["seconds"]
    assert second.report["continued"]["is_taught"]
    assert second.report["continued"]["teacher_cooccurrence"] == 0.0
    assert "teacher: the finished model itself, as an item has 18 training interactions on average, fewer than 55" in caplog.text
    with pytest.raises(StateError, match="nothing to resume"):
        pipeline.train(data, config, tmp_path / "second", start=first, resume=True)
    untaught = pipeline.train(data, config.replaced("training", teachers=0), start=first)
    assert not untaught.report["continued"]["is_taught"]
    assert fingerprint(untaught.model) != fingerprint(second.model)
    initial = pipeline.training.initial_model(data, config, first)
    taught = Teacher(initial.make())
    expected = initial.make()
    loop.fit(expected, data.histories, data.split, config.training, start=initial.fingerprint, teacher=taught)
    assert fingerprint(expected) == fingerprint(second.model)
    assert "teachers" in pipeline.train(data, config.replaced("training", teachers=1), start=first).report


@pytest.mark.thorough
def test_command_line(tmp_path):
    """`ssd4rec train` reports both trainings, and saves one network."""
    file = tmp_path / "log.parquet"
    worlds.frame(worlds.cycle(users=20)).write_parquet(file)
    arguments = ["train", str(file), "--out", str(tmp_path / "model")]
    arguments += ["--set", "training.max_epochs=2", "--set", "data.min_interactions=1"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    artifact = load_artifact(tmp_path / "model")
    assert [len(artifact.report[each]["history"]) for each in ("teachers", "training")] == [2, 2]
    assert artifact.model.members == 1
