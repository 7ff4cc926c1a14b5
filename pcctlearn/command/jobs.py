"""The jobs of a sweep or a single run, as Hydra hands them back."""

from typing import Any

from hydra.core.utils import JobReturn, JobStatus


def leave_failures_to_us() -> None:
    """Raise what a job raised; Hydra's own property first prints a line of overrides."""
    JobReturn.return_value = property(_return_value, JobReturn.return_value.fset)  # type: ignore[method-assign]


def _return_value(job: JobReturn) -> Any:
    assert job.status != JobStatus.UNKNOWN, "the job has not run yet"
    if job.status == JobStatus.COMPLETED:
        return job._return_value
    raise job._return_value
