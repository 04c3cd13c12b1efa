"""Named errors. The class says who has to act, and therefore whether a retry can help.

`UserError` (exit code 2) and its children are never retried: the same input fails again.
`InfrastructureError` (exit code 3) and its children are retried with backoff.
"""

import errno


class StillhouseError(Exception):
    """Base of every error that Stillhouse raises on purpose."""


class UserError(StillhouseError):
    """The input is wrong; the message names the thing, the value and the remedy."""


class PlanError(UserError):
    """A plan that cannot be run as written."""


class DataError(UserError):
    """Data that are missing, malformed or break an expectation."""


class ModelError(UserError):
    """A model that cannot be built, loaded or used for what was asked."""


class TechniqueError(UserError):
    """A technique that cannot be applied to the model that it was given."""


class BudgetError(UserError):
    """A stage that lost more than the plan's early stop allows."""


class GateError(UserError):
    """A promotion that the evidence does not support."""


class TooFewRowsError(DataError):
    """A batch with fewer new labelled rows than are worth a data version."""


class RetrainingRefusedError(UserError):
    """A retraining that must not start now; the message says when it may."""


class ModelBusyError(UserError):
    """A run that must wait for another of the same model; the message says which model."""


class StaleChampionError(UserError):
    """The champion moved since the evidence was gathered."""


class InfrastructureError(StillhouseError):
    """Something outside failed that may heal: network, storage, a worker."""


class ArtifactMissingError(InfrastructureError):
    """The store holds no artifact of that digest."""


class ArtifactCorruptError(InfrastructureError):
    """The stored bytes do not have the digest that names them."""


class DocumentConflictError(InfrastructureError):
    """Another writer appended the version that was to be written."""


class LockTakenError(InfrastructureError):
    """Another holds the lock, and went on holding it as long as was to be waited; the message says who."""


class LockLostError(InfrastructureError):
    """A lock was taken over by another while its holder could not be reached; what it guarded was not written."""


class LedgerSchemaError(UserError):
    """A ledger whose tables are of another version than this program's; the message says which to update."""


class ServiceUnavailableError(InfrastructureError):
    """A service did not answer; the message names its address and the setting that holds it."""


class WorkerLostError(InfrastructureError):
    """A stage's process ended without a result (killed, crashed or timed out)."""


class WorkerMismatchError(InfrastructureError):
    """A worker that would compute or store something else than the run asks for; another one may do."""


class RunStoppedError(StillhouseError):
    """A stage that was given up because its run was told to stop; a later run goes on from its checkpoint."""


class OutOfMemoryError(InfrastructureError):
    """A stage ran out of memory; it is retried with a smaller batch."""


def ran_out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that there is not enough memory, on the host or on a GPU.

    PyTorch has a class for GPUs; on the host it raises a plain RuntimeError with the name of its allocator.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


class DiskFullError(InfrastructureError):
    """A stage could not write what it needs on its machine's disk; another machine's may have room."""


def ran_out_of_disk(error: Exception) -> bool:
    """Tell whether an error says that there is no room on a disk, or that a quota is used up.

    Python looks for a folder for temporary files by writing to it, and where it can write to none says that one of them
    is missing.
    """
    if not isinstance(error, OSError):
        return False
    no_folder = isinstance(error, FileNotFoundError) and "No usable temporary directory" in str(error)
    return no_folder or error.errno in {errno.ENOSPC, errno.EDQUOT}


class StageFailedError(StillhouseError):
    """A stage raised an error that nobody foresaw: a defect, to be reported with its traceback."""
