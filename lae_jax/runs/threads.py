"""Several jobs at a time in one process."""

from collections.abc import Callable, Sequence
from concurrent import futures


def run_in_threads(workers: int, jobs: Sequence[Callable[[], None]], stop: Callable[[], None]) -> None:
    """Run the jobs, `workers` at a time.

    Args:
        workers: how many at a time, at least 1.
        jobs: what to run; those that have not started by the first error do not start.
        stop: called at the first error, or at Ctrl-C, so that the jobs under way can end.

    Raises:
        What the first job to fail has raised, once the others have ended.
    """
    with futures.ThreadPoolExecutor(max(workers, 1)) as pool:
        pending = [pool.submit(job) for job in jobs]
        try:
            for job in futures.as_completed(pending):
                job.result()
        except BaseException:
            stop()
            for job in pending:
                job.cancel()
            raise
