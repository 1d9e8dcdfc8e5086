"""Examines a release: what is wrong with its recordings and labels.

    ser-jax doctor --config.corpus.name=iemocap --config.corpus.root=/data/IEMOCAP_full_release
    ser-jax doctor --system

Leaves with 2 where training would refuse the release, else with 0.
"""

from pathlib import Path

from ser_jax.commands.command_line import CONFIG, Flag, Options

FLAGS = (
    CONFIG,
    Flag("output", "doctor.csv", "File for every finding: file, id, severity, finding, detail."),
    Flag("system", False, "Describe this installation instead, for reports of defects."),
)


def main(options: Options) -> None:
    """Examines the release, prints a table and writes every finding."""
    if options.system:
        from ser_jax.diagnosis import installation

        print(installation.report())
        return
    from ser_jax.diagnosis import diagnose, printout

    output = Path(options.output)
    printout.check_output(output)
    found = diagnose.diagnose(options.config)
    printout.write_findings(output, found.findings)
    print(printout.report_lines(found, output))
    printout.check_errors(found, output)
