"""A run as an event of OpenLineage. Imports its client, so only `lineage` imports this, when on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attr
from openlineage.client import facet_v2 as facets
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, RunEvent, RunState
from openlineage.client.event_v2 import Run as EventRun
from openlineage.client.generated.base import RunFacet

from prefmill._version import __version__
from prefmill.telemetry.facts import datasets_of, places_of, rows_out, size_of
from prefmill.telemetry.run import Run

PRODUCER = f"urn:prefmill:{__version__}"


@attr.define
class PrefmillRunFacet(RunFacet):
    """What only prefmill tells of a run: its command, its key, and what became of every row."""

    command: str = ""
    facts: dict[str, Any] = attr.field(factory=dict)
    figures: dict[str, Any] = attr.field(factory=dict)
    exitCode: int = 0  # noqa: N815 - the field's spelling

    @staticmethod
    def _get_schema() -> str:
        return "urn:prefmill:PrefmillRunFacet:1"


def event_of(state: str, when: str, run: Run) -> RunEvent:
    """The event that `run` is in the state START, COMPLETE, FAIL or ABORT."""
    kind = facets.job_type_job.JobTypeJobFacet(
        processingType="BATCH", integration="PREFMILL", jobType="COMMAND"
    )
    return RunEvent(
        eventType=RunState[state],
        eventTime=when,
        run=EventRun(runId=run.id, facets=_run_facets(run)),
        job=Job(namespace=_namespace(), name=_job_name(run), facets={"jobType": kind}),
        producer=PRODUCER,
        inputs=_inputs(run),
        outputs=_outputs(run, is_done=state == "COMPLETE"),
    )


def _namespace() -> str:
    return os.environ.get("OPENLINEAGE_NAMESPACE") or "default"


def _job_name(run: Run) -> str:
    """The same in every run of one job: nothing of the data is in it."""
    if run.parent:
        return f"{_job_name(run.parent)}.{run.command}"
    _, above, _ = _named("OPENLINEAGE_PARENT_ID") or ("", "", "")
    name = os.environ.get("PREFMILL_JOB") or (f"{above}.prefmill" if above else "prefmill")
    return f"{name}.{run.command}"


def _named(variable: str) -> tuple[str, str, str] | None:
    """Namespace, job and run of a variable NAMESPACE/JOB/RUN, as schedulers set it."""
    namespace, _, rest = os.environ.get(variable, "").partition("/")
    job, _, run = rest.rpartition("/")
    return (namespace, job, run) if namespace and job and run else None


def _run_facets(run: Run) -> dict[str, Any]:
    own: dict[str, Any] = {
        "processing_engine": facets.processing_engine_run.ProcessingEngineRunFacet(
            version=__version__, name="prefmill"
        ),
        "prefmill": PrefmillRunFacet(
            command=run.command,
            facts=dict(run.facts),
            figures=dict(run.figures),
            exitCode=run.exit_code,
        ),
    }
    parent = _parent(run)
    if parent:
        own["parent"] = parent
    if run.error:
        name, what = run.error
        own["errorMessage"] = facets.error_message_run.ErrorMessageRunFacet(
            message=f"{name}: {what} (exit code {run.exit_code}; the run's own log has the rest)",
            programmingLanguage="PYTHON",
        )
    return own


def _parent(run: Run) -> Any:
    """The run that this one is a part of: ours, or the one that the environment names."""
    part = facets.parent_run
    if run.parent:
        job = part.Job(namespace=_namespace(), name=_job_name(run.parent))
        return part.ParentRunFacet(run=part.Run(runId=run.parent.id), job=job)
    named = _named("OPENLINEAGE_PARENT_ID")
    if named is None:
        return None
    namespace, name, above = named
    top = _named("OPENLINEAGE_ROOT_PARENT_ID")
    root = None
    if top:
        root_job = part.RootJob(namespace=top[0], name=top[1])
        root = part.Root(run=part.RootRun(runId=top[2]), job=root_job)
    job = part.Job(namespace=namespace, name=name)
    return part.ParentRunFacet(run=part.Run(runId=above), job=job, root=root)


def _inputs(run: Run) -> list[InputDataset]:
    named = datasets_of(run.inputs)
    own: dict[str, Any] = {}
    rows = run.figures.get("rows_in")
    if len(named) == 1 and rows is not None:  # of several nobody knows which has how many
        statistics = facets.input_statistics_input_dataset.InputStatisticsInputDatasetFacet
        own["inputStatistics"] = statistics(rowCount=rows)
    return [InputDataset(namespace=space, name=name, inputFacets=own) for space, name in named]


def _outputs(run: Run, *, is_done: bool) -> list[OutputDataset]:
    made = []
    places = dict.fromkeys(places_of(run.output))
    for place, (namespace, name) in zip(places, datasets_of(list(places)), strict=False):
        own: dict[str, Any] = {}
        more: dict[str, Any] = {}
        if is_done:
            files, size = size_of([place]) or (None, None)
            rows = rows_out(run.figures) if len(places) == 1 else None
            statistics = facets.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet
            more["outputStatistics"] = statistics(rowCount=rows, size=size, fileCount=files)
            columns = _columns(place)
            if columns:
                own["schema"] = facets.schema_dataset.SchemaDatasetFacet(fields=columns)
        made.append(OutputDataset(namespace=namespace, name=name, facets=own, outputFacets=more))
    return made


def _columns(place: str) -> list[Any]:
    """Names and types of the columns of a local Parquet file; of others none are told."""
    if "://" in place or Path(place).suffix != ".parquet" or not Path(place).is_file():
        return []
    import pyarrow.parquet as pq

    field = facets.schema_dataset.SchemaDatasetFacetFields
    return [field(name=each.name, type=str(each.type)) for each in pq.read_schema(place)]
