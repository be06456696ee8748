import pytest
import yaml

from scatsimclr.config import load_config, parse_config, setting_names, shipped
from scatsimclr.errors import UserError

# The two settings files of the original code, comments left out.
ORIGINAL = """\
batch_size: 64                 # training/evaluation batch size
epochs: 1
validate_every_n_epochs: 1
eval_every_n_epochs: 1
fine_tune_from: None
log_every_n_steps: 100
weight_decay: 10e-6
model:
  out_dim: 128
  base_model: "scatsimclr30"
  J: 2
  L: 16
dataset:
  dataset: "stl10"
  input_shape: (96, 96, 3)
  valid_size: 0.05
loss:
  temperature: 0.5
  use_cosine_similarity: True
"""
ORIGINAL_PRETEXT = (
    ORIGINAL
    + """\
pretext:
  jigsaw: False
  rotation: True
  num_jigsaw: 35
  lambda: 0.3
"""
)


@pytest.fixture
def original(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(ORIGINAL)
    return str(path)


def test_the_originals_file_means_what_it_says(original):
    config = load_config(original)
    assert config.weight_decay == 1e-5
    assert config.fine_tune_from is None
    assert config.dataset.input_shape == (96, 96, 3)
    assert config.model.res_blocks == 30
    assert (config.lr, config.flat_epochs) == (3e-4, 10)


def test_the_originals_pretext_file_parses(tmp_path):
    path = tmp_path / "config_pretext.yaml"
    path.write_text(ORIGINAL_PRETEXT)
    config = load_config(str(path), ["mode=pretext", "pretext.lambda=0.1"])
    assert config.pretext.rotation
    assert not config.pretext.jigsaw
    assert config.pretext.lambda_ == 0.1


@pytest.mark.parametrize(
    "name",
    [
        *("digits", "photos", "cifar10", "cifar20", "stl10", "folder"),
        *("mnist", "fashion_mnist", "kmnist", "emnist"),
    ],
)
def test_shipped_files_are_valid_and_chosen_by_data_set(name):
    assert shipped(name)
    config = load_config(name)
    assert config.dataset.dataset == ("emnist_balanced" if name == "emnist" else name)
    assert config == load_config(None, [f"dataset.dataset={config.dataset.dataset}"])


def test_a_familys_data_sets_share_a_file():
    letters = load_config(None, ["dataset.dataset=emnist_letters"])
    assert letters.dataset.dataset == "emnist_letters"
    assert letters == load_config("emnist_letters")
    assert letters.augment == load_config("emnist_balanced").augment
    assert load_config("fashion_mnist").augment.flip == 0.5
    assert letters.augment.flip == 0.0


def test_the_shape_of_the_images_may_be_left_to_them_but_is_not_by_default():
    assert parse_config({}).dataset.input_shape == (32, 32, 3)
    assert parse_config({"dataset": {"input_shape": "(28, 28, 1)"}}).dataset.input_shape == (28, 28, 1)
    config = load_config("folder")
    assert config.dataset.input_shape == "auto"
    assert parse_config(yaml.safe_load(config.to_yaml())) == config
    rotated = load_config("folder", ["mode=pretext", "pretext.rotation=true"])
    assert rotated.dataset.input_shape == "auto"


def test_digits_is_the_default_and_overrides_win():
    config = load_config(None, ["epochs=3", "loss.temperature=0.07", "augment.crop_scale=(0.2, 0.9)"])
    assert config.dataset.dataset == "digits"
    assert (config.epochs, config.loss.temperature, config.augment.crop_scale) == (3, 0.07, (0.2, 0.9))


def test_yaml_words_for_switches():
    assert load_config(None, ["amp=off", "graphs=off"]).amp == "off"
    assert load_config(None, ["graphs=off"]).graphs is False
    assert load_config(None, ["graphs=on"]).graphs is True
    assert load_config().graphs == "auto"


def test_a_resolved_config_reads_back_as_itself(original):
    config = load_config(original, ["pretext.rotation=true", "evaluation.labels_per_class=[1, 10]"])
    assert parse_config(yaml.safe_load(config.to_yaml())) == config


def test_every_setting_can_be_named():
    names = setting_names()
    assert {"epochs", "model.base_model", "pretext.lambda", "evaluation.knn_k", "augment.hue"} <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epoch=3", "unknown setting epoch; did you mean epochs?"),
        ("model.bas_model=x", "unknown setting model.bas_model; did you mean model.base_model?"),
        ("temperature=1", "unknown setting temperature; did you mean loss.temperature?"),
        ("model.J.x=3", "unknown setting model.J.x; did you mean model.J?"),
        ("zzz=3", "unknown setting zzz"),
        (
            "epochs=many",
            "setting epochs must be a valid integer, unable to parse string as an integer, got 'many'",
        ),
        (
            "data.scale=min",
            "setting data.scale must be auto, dtype, image or LOW:HIGH, such as 0:4095, got 'min'",
        ),
        ("data.scale='1:0'", "setting data.scale must be auto"),
        ("data.scale='0:nan'", "setting data.scale must be auto"),
        ("data.scale='0:1:2'", "setting data.scale must be auto"),
        ("data.scale=3", "setting data.scale must be auto"),
        ("batch_size=1", "setting batch_size must be 2 or more (the loss of one image, "),
        ("batch_size=0", "is always 0), got 0"),
        ("model.base_model=scatsimclr9", "setting model.base_model must be 'auto', 'scatsimclr4'"),
        ("dataset.input_shape=(2, 3, 1)", "2^J does not exceed the image, got 2 for images of 2×3"),
        ("lr=.nan", "setting lr must be a finite number, got nan"),
        ("augment.flip=1.5", "setting augment.flip must be less than or equal to 1, got 1.5"),
        ("augment.hue=.nan", "setting augment.hue must be a finite number, got nan"),
        ("augment.flop=1", "unknown setting augment.flop; did you mean augment.flip?"),
        (
            "augment.crop_scale=(0.5, 0.1)",
            "setting augment.crop_scale must be (low, high), low not above high",
        ),
        (
            "augment.crop_scale=(0.5, 2)",
            "setting augment.crop_scale.1 must be less than or equal to 1, got 2",
        ),
        ("augment.translate=[1]", "setting augment.translate.1 must be given, got [1]"),
        ("dataset.input_shape=__import__('os').abort()", "setting dataset.input_shape"),
        (
            "dataset.input_shape=(32, 32, 0)",
            "setting dataset.input_shape.2 must be greater than or equal to 1, got 0",
        ),
        (
            "dataset.input_shape=(32, 32, 2)",
            "dataset.input_shape must have 1 or 3 channels for digits, got 2",
        ),
        (
            "dataset.normalization=measured",
            "setting dataset.normalization must be usual, images or [[means], [",
        ),
        ("dataset.normalization=[[0.5],[0]]", "setting dataset.normalization must be usual, images or"),
        (
            "dataset.input_shape=automatic",
            "setting dataset.input_shape must be a valid tuple, got 'automatic'",
        ),
        ("mode=pretext", "exactly one of pretext.rotation=true and pretext.jigsaw=true"),
        ("epochs", "'epochs' is neither an option nor key=value"),
        ("epochs=[", "the value of 'epochs=[' is not valid: expected the node content"),
    ],
)
def test_mistakes_are_named_in_one_line(setting, message):
    with pytest.raises(UserError) as raised:
        load_config(None, [setting])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not valid: expected the node content"),
        ("- 1", "must hold"),
        ("epochz: 1", "unknown setting epochz"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(str(path))
    with pytest.raises(UserError, match=r"does not exist"):
        load_config(str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize("scale", ["auto", "dtype", "image", "0:4095", "-1.5:2", "[0, 4095]"])
def test_scales_of_grey_values(scale):
    config = load_config(None, [f"data.scale={scale}"])
    expected = {"0:4095": (0.0, 4095.0), "-1.5:2": (-1.5, 2.0), "[0, 4095]": (0.0, 4095.0)}.get(scale, scale)
    assert config.data.scale == expected
    assert load_config(base=yaml.safe_load(config.to_yaml())).data.scale == expected


def test_a_normalisation_has_a_mean_for_each_channel():
    settings = ["dataset.dataset=folder", "dataset.input_shape=(8, 8, 5)"]
    with pytest.raises(
        UserError, match=r"dataset\.normalization must have a mean for each channel, 5, got 2"
    ):
        load_config(None, [*settings, "dataset.normalization=[[0.5,0.5],[1,1]]"])
    own = load_config(None, [*settings, f"dataset.normalization={[[0.5] * 5, [0.2] * 5]}"])
    assert own.dataset.normalization == ((0.5,) * 5, (0.2,) * 5)
    assert load_config(base=own.as_json()) == own


def test_settings_are_given_as_text_or_as_values():
    text = load_config(None, ["model.J=3", "dataset.input_shape=(16, 16, 1)"])
    assert load_config(None, [("model.J", 3), ("dataset.input_shape", (16, 16, 1))]) == text
