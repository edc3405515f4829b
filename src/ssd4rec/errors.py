"""Every exception that ssd4rec raises on purpose.

SSD4RecError
├── ConfigError    (ValueError)       a setting is unknown, of the wrong type or out of its range
├── DataError      (ValueError)       a file or table of interactions cannot be used
├── ShapeError     (ValueError)       tensors that belong together do not fit
├── DivergedError  (ArithmeticError)  a model gave scores that are not numbers
├── ArtifactError  (RuntimeError)     a saved model is missing, damaged or of another version
│   └── StateError                    the checkpoint of an interrupted training is missing, damaged or of another one
├── BackendError   (RuntimeError)     a requested device or optional package is missing
└── ProcessGroupError (RuntimeError)  a process of a distributed training lost contact with the others

A message says what was found (file, row, value), what was expected, and what to do.
The command line prints it as one line and exits with code 2.
"""


class SSD4RecError(Exception):
    """Base of every error that a user of this package can cause."""


class ConfigError(SSD4RecError, ValueError):
    """A setting is unknown, of the wrong type or out of its range."""


class DataError(SSD4RecError, ValueError):
    """A file or table of interactions cannot be used."""


class ShapeError(SSD4RecError, ValueError):
    """Tensors that belong together do not fit."""


class DivergedError(SSD4RecError, ArithmeticError):
    """A model gave scores that are not numbers; the data are valid, and other settings may help."""


class ArtifactError(SSD4RecError, RuntimeError):
    """A saved model is missing, damaged or of another version."""


class StateError(ArtifactError):
    """The checkpoint of an interrupted training is missing, damaged, or of another training or version."""


class BackendError(SSD4RecError, RuntimeError):
    """A requested device or optional package is missing."""


class ProcessGroupError(SSD4RecError, RuntimeError):
    """A process of a distributed training lost contact with the others."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error of another library; the name of its class if it has no message."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
