"""`tailrank doctor`: what costs speed on this host, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailrank.reporting.host_findings import Finding


def doctor(*, report: Path | None = None, quiet: bool = False, json: bool = False) -> int:
    """Name what costs speed on this host, each with a figure and the fix.

    Looks at huge pages, random reads, dense layers, instruction sets, native kernels, GPU and
    Triton, threads, memory, clock frequency, stolen time, energy meters and the compiler. Takes a
    few seconds; findings are no error.

    Example: tailrank doctor

    Args:
        report: File for a page with charts, as in host.html.
        quiet: Say nothing but errors and what explains an exit code.
        json: Print the result as JSON on standard output.
    """
    import torch

    from tailrank.characterization import host_probes
    from tailrank.core.files import check_writable
    from tailrank.kernels import cuda, native
    from tailrank.reporting.command_line import command_line
    from tailrank.reporting.console import Console
    from tailrank.reporting.host import describe_host
    from tailrank.reporting.host_findings import HostFigures, findings, findings_table
    from tailrank.reporting.report import write_page
    from tailrank.reporting.report_data import ReportData
    from tailrank.reporting.result import Result

    typed = command_line(doctor, locals())
    if report is not None:
        check_writable(report.parent)
    console = Console(json=json, quiet=quiet)
    stolen_before, ticks_before = host_probes.cpu_times()
    with console.progress("probe") as advance:
        advance(0, "huge pages")
        huge_page_fraction = host_probes.huge_page_fraction()
        advance(1 / 6, "random reads")
        gather_huge = host_probes.gather_ns_per_row(huge_pages=True)
        advance(2 / 6, "random reads")
        gather_small = host_probes.gather_ns_per_row(huge_pages=False)
        advance(3 / 6, "dense layers")
        linear_plain = host_probes.linear_gflops(torch.float32, packed=False)
        linear_packed = host_probes.linear_gflops(torch.float32, packed=True)
        advance(5 / 6, "dense layers")
        linear_bf16 = host_probes.linear_gflops(torch.bfloat16, packed=True)
    stolen, ticks = host_probes.cpu_times()
    host = describe_host()
    figures = HostFigures(
        huge_page_fraction=huge_page_fraction,
        gather_ns_per_row_huge_pages=gather_huge,
        gather_ns_per_row_small_pages=gather_small,
        linear_fp32_gflops=linear_plain,
        linear_fp32_packed_gflops=linear_packed,
        linear_bf16_packed_gflops=linear_bf16,
        stolen_fraction=(stolen - stolen_before) / max(1, ticks - ticks_before),
        num_torch_threads=torch.get_num_threads(),
        native_isa=None if native.why_unavailable() else native.runnable_isas()[0],
        native_refusal=native.why_unavailable(),
        gpu=cuda.device_name(),
        gpu_refusal=cuda.why_unavailable(),
        triton=cuda.triton_version(),
    )
    found = findings(host, figures)
    console.show(findings_table(found))
    result = Result(
        command="doctor",
        command_line=typed,
        config={},
        metrics=figures.metrics() | {"num_findings": _num_costly(found)},
        host=host | {"findings": found},
        artifacts=[] if report is None else [report],
    )
    if report is not None:
        write_page(report, result, ReportData(findings=found), report.stem)
    console.finish(result)
    return 0


def _num_costly(found: list[Finding]) -> int:
    """How many findings cost speed."""
    return sum(finding.fix is not None for finding in found)
