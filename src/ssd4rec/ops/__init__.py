"""Operations on packed batches: functions of tensors, without parameters.

`ops.ssd.reference.scan` defines the state space recurrence position by position.
The tests hold every faster form to its definition, gradients included.
"""
