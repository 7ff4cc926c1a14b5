"""Errors of Hydra's jobs, raised without the text that Hydra prints before them."""

from typing import Any

from hydra.core.utils import JobReturn, JobStatus


def raise_failures_only() -> None:
    """Have Hydra raise the error of a job without printing the job's overrides first."""
    stored: Any = JobReturn.__dict__["return_value"]
    JobReturn.return_value = stored.getter(_return_value)  # type: ignore[method-assign]


def _return_value(job: JobReturn) -> Any:
    assert job.status != JobStatus.UNKNOWN, "the job has not run yet"
    if job.status == JobStatus.COMPLETED:
        return job._return_value
    raise job._return_value
