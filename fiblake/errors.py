"""The tree of all errors.

FiblakeError
├── TransientError              retry: the same work may succeed later
│   ├── ConflictError           another writer wrote the object first (S3 answered 412 or 409)
│   └── UpstreamError           a called service failed, or sent an invalid answer
└── PermanentError              dead letter: the same work will always fail; the reason says what to do
    ├── ContractError           a message or an object breaks its contract
    ├── NotFoundError           the object or symbol of the message does not exist
    ├── EntitlementError        a credential is missing, wrong, or not entitled
    └── ConfigurationError      a setting is missing or wrong
"""


class FiblakeError(Exception):
    """Root of every error this project raises on purpose."""


class TransientError(FiblakeError):
    """The same work may succeed later: the message is retried."""


class ConflictError(TransientError):
    """A conditional write lost: the object is not the version that was read."""


class UpstreamError(TransientError):
    """A called service failed or sent an invalid answer."""


class PermanentError(FiblakeError):
    """The same work will always fail: the message goes to the dead-letter queue with this reason."""


class ContractError(PermanentError):
    """A message, key, or object does not have the agreed format."""


class NotFoundError(PermanentError):
    """An object that the work needs does not exist."""


class EntitlementError(PermanentError):
    """A credential is missing, unknown, or not entitled to the request."""


class ConfigurationError(PermanentError):
    """A setting is missing or has a value that cannot be used."""
