"""The exceptions that are dlperf's own. Bad arguments raise what torch raises (TypeError, ValueError, RuntimeError)."""


class BackendError(RuntimeError):
    """A backend that was asked for by name can't serve the call; the message says why and names the mend."""
