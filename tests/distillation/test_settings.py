"""Settings of a conversion that nothing could be made with are refused as they are made."""

import pytest

from fastmux.distillation.settings import ConversionSettings


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_instances": 0}, "num_instances is 0, expected an integer of at least 1"),
        ({"num_instances": 2.0}, "num_instances is 2.0, expected an integer of at least 1"),
        ({"max_length": 0}, "max_length is 0, expected an integer of at least 1"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0, expected an integer of at least 1"),
        ({"row_layers": -1}, "row_layers is -1, expected an integer of at least 0"),
        ({"last_layers": -1}, "last_layers is -1, expected an integer of at least 0"),
        ({"first_layers": -1}, "first_layers is -1, expected an integer of at least 0"),
        ({"seed": -1}, "seed is -1, expected an integer of at least 0"),
        ({"join": "both"}, "join is 'both', expected one of 'positions', 'rows', 'pooled', 'feed_forward'"),
        ({"ffn_width": 0}, "ffn_width is 0, expected a number above 0, up to 1"),
        ({"ffn_width": 1.5}, "ffn_width is 1.5, expected a number above 0, up to 1"),
        ({"num_train_epochs": 0.0}, "num_train_epochs is 0.0, expected a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan, expected a number above 0"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast', expected a number above 0"),
        ({"state_weight": -0.5}, "state_weight is -0.5, expected a number of at least 0"),
    ],
)
def test_out_of_range(setting, message):
    with pytest.raises(ValueError) as raised:
        ConversionSettings(**setting)
    assert str(raised.value) == message


def test_what_is_allowed():
    ConversionSettings(state_weight=0, row_layers=0, last_layers=0, first_layers=0, num_train_epochs=1)
