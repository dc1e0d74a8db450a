"""Which failure is which: the one tree of errors.

FiblakeError
├── TransientError              try again: the same work may succeed later
│   ├── ConflictError           somebody else wrote the object first (S3 answered 412 or 409)
│   └── UpstreamError           a service we call failed, or answered something we cannot trust
└── PermanentError              dead letter: the same work will always fail; the reason says what to do
    ├── ContractError           a message or an object breaks its contract
    ├── NotFoundError           what the message speaks of does not exist
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
    """A service we depend on failed or answered something that cannot be trusted."""


class PermanentError(FiblakeError):
    """The same work will always fail: the message goes to the dead-letter queue with this reason."""


class ContractError(PermanentError):
    """A message, key, or object does not have the agreed shape."""


class NotFoundError(PermanentError):
    """An object that the work needs does not exist."""


class EntitlementError(PermanentError):
    """A credential is missing, unknown, or not entitled to what was asked."""


class ConfigurationError(PermanentError):
    """A setting is missing or has a value that cannot be used."""
