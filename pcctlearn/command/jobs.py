"""The jobs of a sweep, and the single run, as Hydra hands them back."""

from typing import Any

from hydra.core.utils import JobReturn, JobStatus


def raise_failures_only() -> None:
    """Raise what a job raised. Hydra's own property prints the overrides of the job before that."""
    stored: Any = JobReturn.__dict__["return_value"]
    JobReturn.return_value = stored.getter(_return_value)  # type: ignore[assignment]


def _return_value(job: JobReturn) -> Any:
    assert job.status != JobStatus.UNKNOWN, "the job has not run yet"
    if job.status == JobStatus.COMPLETED:
        return job._return_value
    raise job._return_value
